// The signature `serving_default` of kt.export.saved_model with both tokenizers: `text` (B,) to `texts` (B, N) and
// `scores` (B, N). Which tensors these are is read from the model.

#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "signature.h"

#define SIGNATURE "serving_default"

// tensorflow::DisableXlaCompilation(), which has no C name; tensorflow_model_server calls it when it starts.
extern void disable_xla(void) __asm__("_ZN10tensorflow21DisableXlaCompilationEv");

struct Model {
  TF_Graph* graph;
  TF_Session* session;
  TF_Output text;
  TF_Output outputs[2];  // texts and, if the model has them, scores
  int output_count;
};

bool model_load_operations(const char* library, TF_Status* status) {
  TF_Library* handle = TF_LoadLibrary(library, status);
  if (TF_GetCode(status) != TF_OK) return false;
  TF_DeleteLibraryHandle(handle);  // the handle only; the operations stay
  return true;
}

// The graph's output behind an endpoint, if it has the type.
static bool resolve(Model* model, const Endpoint* endpoint, TF_DataType type, TF_Output* output) {
  if (endpoint == NULL) return false;
  output->oper = TF_GraphOperationByName(model->graph, endpoint->operation);
  output->index = endpoint->index;
  return output->oper != NULL && output->index < TF_OperationNumOutputs(output->oper) &&
         TF_OperationOutputType(*output) == type;
}

static void find_tensors(Model* model, const Signature* signature, TF_Status* status) {
  const Endpoint *inputs = signature->inputs, *outputs = signature->outputs;
  const Endpoint* texts = signature_find(outputs, signature->output_count, "texts");
  const Endpoint* scores = signature_find(outputs, signature->output_count, "scores");
  const Endpoint* text = signature_find(inputs, signature->input_count, "text");
  if (signature->input_count != 1 || !resolve(model, text, TF_STRING, &model->text)) {
    TF_SetStatus(status, TF_INVALID_ARGUMENT,
                 "signature '" SIGNATURE "' does not take one input 'text' of strings; export with source_tokenizer=...");
  } else if (!resolve(model, texts, TF_STRING, &model->outputs[0])) {
    TF_SetStatus(status, TF_INVALID_ARGUMENT,
                 "signature '" SIGNATURE "' has no output 'texts' of strings; export with target_tokenizer=...");
  } else {
    model->output_count = resolve(model, scores, TF_FLOAT, &model->outputs[1]) ? 2 : 1;
  }
}

Model* model_load(const char* folder, TF_Status* status) {
  disable_xla();
  Model* model = calloc(1, sizeof(Model));
  if (model == NULL) abort();
  model->graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Buffer* meta_graph = TF_NewBuffer();
  const char* tags[] = {"serve"};
  model->session = TF_LoadSessionFromSavedModel(options, NULL, folder, tags, 1, model->graph, meta_graph, status);
  if (TF_GetCode(status) == TF_OK) {
    Signature signature;
    if (signature_read(meta_graph->data, meta_graph->length, SIGNATURE, &signature)) {
      find_tensors(model, &signature, status);
      signature_free(&signature);
    } else {
      TF_SetStatus(status, TF_NOT_FOUND, "it has no signature '" SIGNATURE "'");
    }
  }
  TF_DeleteBuffer(meta_graph);
  TF_DeleteSessionOptions(options);
  if (TF_GetCode(status) == TF_OK) return model;
  model_free(model);
  return NULL;
}

// A tensor (B,) of strings. Its bytes are the tensor's own: short strings lie in it, longer ones on the heap.
static TF_Tensor* make_strings(const Text* texts, size_t count) {
  int64_t shape[] = {(int64_t)count};
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, shape, 1, count * sizeof(TF_TString));
  if (tensor == NULL) abort();
  TF_TString* strings = TF_TensorData(tensor);
  for (size_t i = 0; i < count; i++) {
    TF_StringInit(&strings[i]);
    TF_StringCopy(&strings[i], texts[i].at, texts[i].size);
  }
  return tensor;
}

// TF_DeleteTensor frees the memory of a tensor made here, but not what its strings have on the heap.
static void free_strings(TF_Tensor* tensor) {
  TF_TString* strings = TF_TensorData(tensor);
  for (int64_t i = 0; i < TF_TensorElementCount(tensor); i++) TF_StringDealloc(&strings[i]);
  TF_DeleteTensor(tensor);
}

static bool has_shape(const TF_Tensor* tensor, size_t rows, size_t beams) {
  return TF_NumDims(tensor) == 2 && TF_Dim(tensor, 0) == (int64_t)rows && TF_Dim(tensor, 1) == (int64_t)beams;
}

bool model_run(Model* model, const Text* texts, size_t count, Answers* answers, TF_Status* status) {
  TF_Tensor* outputs[2] = {NULL, NULL};
  TF_Tensor* input = make_strings(texts, count);
  TF_SessionRun(model->session, NULL, &model->text, &input, 1, model->outputs, outputs, model->output_count, NULL, 0,
                NULL, status);
  free_strings(input);
  if (TF_GetCode(status) != TF_OK) return false;
  size_t beams = TF_NumDims(outputs[0]) == 2 ? (size_t)TF_Dim(outputs[0], 1) : 0;
  *answers = (Answers){outputs[0], outputs[1], count, beams};
  if (beams > 0 && has_shape(outputs[0], count, beams) &&
      (outputs[1] == NULL || has_shape(outputs[1], count, beams)))
    return true;
  TF_SetStatus(status, TF_INTERNAL, "the outputs are not one row of answers for each string");
  answers_free(answers);
  return false;
}

Text answers_text(const Answers* answers, size_t row, size_t beam) {
  const TF_TString* string = (const TF_TString*)TF_TensorData(answers->texts) + row * answers->beams + beam;
  return (Text){TF_StringGetDataPointer(string), TF_StringGetSize(string)};
}

float answers_score(const Answers* answers, size_t row, size_t beam) {
  return ((const float*)TF_TensorData(answers->scores))[row * answers->beams + beam];
}

// Tensors that TensorFlow made free their own strings.
void answers_free(Answers* answers) {
  TF_DeleteTensor(answers->texts);
  if (answers->scores != NULL) TF_DeleteTensor(answers->scores);
  *answers = (Answers){0};
}

void model_free(Model* model) {
  TF_Status* ignored = TF_NewStatus();
  if (model->session != NULL) {
    TF_CloseSession(model->session, ignored);
    TF_DeleteSession(model->session, ignored);
  }
  TF_DeleteGraph(model->graph);
  TF_DeleteStatus(ignored);
  free(model);
}
