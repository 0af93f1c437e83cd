// Protocol buffers on the wire: a message is a sequence of fields, each a number, a type and a value. All that is
// looked for here are strings and messages within messages, so every other type is stepped over.
// https://protobuf.dev/programming-guides/encoding/

#include "signature.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The numbers of the fields that lead to a tensor's name, from meta_graph.proto. A map is a repeated message of
// a key and a value.
enum { SIGNATURE_DEF = 5, MAP_KEY = 1, MAP_VALUE = 2, INPUTS = 1, OUTPUTS = 2, TENSOR_NAME = 1 };
enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

typedef struct {
  const uint8_t* at;
  const uint8_t* end;
} Span;

typedef struct {
  uint64_t number;
  unsigned type;
  Span bytes;  // of a field of type BYTES
} Field;

static bool read_varint(Span* span, uint64_t* value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64 && span->at < span->end; shift += 7) {
    uint8_t byte = *span->at++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

// The next field of a message. False at its end, and where it is damaged; then `span->at` is not at the end.
static bool next_field(Span* span, Field* field) {
  uint64_t tag, size;
  Span rest = *span;
  if (!read_varint(&rest, &tag)) return false;
  field->number = tag >> 3;
  field->type = tag & 7;
  switch (field->type) {
    case VARINT:
      if (!read_varint(&rest, &size)) return false;
      size = 0;
      break;
    case FIXED64:
      size = 8;
      break;
    case FIXED32:
      size = 4;
      break;
    case BYTES:
      if (!read_varint(&rest, &size)) return false;
      break;
    default:
      return false;
  }
  if (size > (uint64_t)(rest.end - rest.at)) return false;
  field->bytes = (Span){rest.at, rest.at + size};
  span->at = rest.at + size;
  span->end = rest.end;
  return true;
}

// The last field of that number, as the format has it; an empty span if there is none.
static Span find_field(Span message, uint64_t number) {
  Span found = {NULL, NULL};
  Field field;
  while (next_field(&message, &field))
    if (field.number == number && field.type == BYTES) found = field.bytes;
  return found;
}

static bool equals(Span span, const char* text) {
  size_t size = (size_t)(span.end - span.at);
  return size == strlen(text) && (size == 0 || memcmp(span.at, text, size) == 0);
}

static char* copy(const uint8_t* at, size_t size) {
  char* text = malloc(size + 1);
  if (text == NULL) abort();
  if (size > 0) memcpy(text, at, size);
  text[size] = '\0';
  return text;
}

// Adds an entry of the map from keys to TensorInfo; a tensor's name reads "operation:index".
static bool add_endpoint(Span entry, Endpoint** endpoints, size_t* count) {
  Span key = find_field(entry, MAP_KEY);
  Span name = find_field(find_field(entry, MAP_VALUE), TENSOR_NAME);
  const uint8_t* colon = name.end;
  while (colon > name.at && colon[-1] != ':') colon--;
  if (colon == name.at) return false;
  char* index = copy(colon, (size_t)(name.end - colon));
  Endpoint endpoint = {
      .key = copy(key.at, (size_t)(key.end - key.at)),
      .operation = copy(name.at, (size_t)(colon - 1 - name.at)),
      .index = atoi(index),
  };
  free(index);
  *endpoints = realloc(*endpoints, (*count + 1) * sizeof(Endpoint));
  if (*endpoints == NULL) abort();
  (*endpoints)[(*count)++] = endpoint;
  return true;
}

bool signature_read(const void* data, size_t size, const char* name, Signature* signature) {
  Span graph = {data, (const uint8_t*)data + size};
  Field field;
  *signature = (Signature){0};
  while (next_field(&graph, &field)) {
    if (field.number != SIGNATURE_DEF || field.type != BYTES || !equals(find_field(field.bytes, MAP_KEY), name))
      continue;
    Span definition = find_field(field.bytes, MAP_VALUE);
    bool whole = true;
    while (whole && next_field(&definition, &field)) {
      if (field.type != BYTES) continue;
      if (field.number == INPUTS) whole = add_endpoint(field.bytes, &signature->inputs, &signature->input_count);
      if (field.number == OUTPUTS) whole = add_endpoint(field.bytes, &signature->outputs, &signature->output_count);
    }
    if (whole && definition.at == definition.end) return true;
    signature_free(signature);
    return false;
  }
  return false;
}

const Endpoint* signature_find(const Endpoint* endpoints, size_t count, const char* key) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(endpoints[i].key, key) == 0) return &endpoints[i];
  return NULL;
}

static void free_endpoints(Endpoint* endpoints, size_t count) {
  for (size_t i = 0; i < count; i++) {
    free(endpoints[i].key);
    free(endpoints[i].operation);
  }
  free(endpoints);
}

void signature_free(Signature* signature) {
  free_endpoints(signature->inputs, signature->input_count);
  free_endpoints(signature->outputs, signature->output_count);
  *signature = (Signature){0};
}
