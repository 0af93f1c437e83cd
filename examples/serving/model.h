// A SavedModel that answers strings with strings, through TensorFlow's C API.

#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <tensorflow/c/c_api.h>

typedef struct Model Model;

// A string that may hold any byte.
typedef struct {
  const char* at;
  size_t size;
} Text;

// For each of `rows` strings, `beams` answers, the best first; `scores` is NULL if the model gives none.
typedef struct {
  TF_Tensor* texts;
  TF_Tensor* scores;
  size_t rows;
  size_t beams;
} Answers;

// Loads the operations of a library, as tensorflow-text's. False: `status` says why.
bool model_load_operations(const char* library, TF_Status* status);

// Loads the SavedModel in a folder with XLA turned off, as TensorFlow Serving does on CPUs. NULL: `status` says why.
Model* model_load(const char* folder, TF_Status* status);

// Answers strings. False: `status` says why, and there is nothing to free.
bool model_run(Model* model, const Text* texts, size_t count, Answers* answers, TF_Status* status);

Text answers_text(const Answers* answers, size_t row, size_t beam);
float answers_score(const Answers* answers, size_t row, size_t beam);
void answers_free(Answers* answers);
void model_free(Model* model);

#endif
