// The inputs and outputs of one signature, read from a serialized MetaGraphDef.

#ifndef SIGNATURE_H
#define SIGNATURE_H

#include <stdbool.h>
#include <stddef.h>

// One input or output: `key` is what its user calls it, `operation` and `index` say where it is in the graph.
typedef struct {
  char* key;
  char* operation;
  int index;
} Endpoint;

typedef struct {
  Endpoint* inputs;
  size_t input_count;
  Endpoint* outputs;
  size_t output_count;
} Signature;

// Reads the signature `name` of the MetaGraphDef in `data`. False if there is none or the bytes are damaged; the
// signature is empty then. Release it with `signature_free`.
bool signature_read(const void* data, size_t size, const char* name, Signature* signature);

// The endpoint of that key, or NULL.
const Endpoint* signature_find(const Endpoint* endpoints, size_t count, const char* key);

void signature_free(Signature* signature);

#endif
