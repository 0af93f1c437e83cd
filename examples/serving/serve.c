// Answers the lines of standard input by a SavedModel of kt.export.saved_model, without Python.

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "model.h"

enum { OK = 0, SOME_REFUSED = 1, FAILED = 2 };

static const char HELP[] =
    "Usage: serve [options] FOLDER\n"
    "\n"
    "Answers each line of standard input with a line on standard output, by the SavedModel in FOLDER that\n"
    "kt.export.saved_model(generator, FOLDER, source_tokenizer=..., target_tokenizer=...) wrote. XLA is off.\n"
    "\n"
    "  -o, --ops LIBRARY  load operations first: tensorflow-text's _fast_sentencepiece_tokenizer.so; repeatable\n"
    "  -b, --batch N      lines that are answered together, 64 unless told; 1 answers each line at once\n"
    "  -n, --n-best N     for each line the N best answers: its number from 1, a tab, the score, a tab, the answer\n"
    "  -h, --help         show this\n"
    "\n"
    "A line may hold any bytes. A line end within an answer is written as a space. A line that the model refuses is\n"
    "reported on standard error and answered with an empty line.\n"
    "Exit status: 0 all lines answered, 1 some refused, 2 nothing could be done.\n"
    "TF_CPP_MIN_LOG_LEVEL=3 in the environment silences most of TensorFlow's own messages.\n";

typedef struct {
  const char* folder;
  size_t batch;
  size_t best;  // 0: the best answer alone, without its score
} Options;

// Lines of a batch. Each keeps its buffer, which getline makes as large as it needs.
typedef struct {
  char** buffers;
  size_t* capacities;
  Text* texts;
  size_t count;
  size_t first;  // number of the batch's first line, from 1
} Lines;

static size_t positive(const char* text, const char* option) {
  char* end;
  errno = 0;
  long value = strtol(text, &end, 10);
  if (errno == 0 && end != text && *end == '\0' && value >= 1 && value <= 1000000) return (size_t)value;
  fprintf(stderr, "serve: %s takes a number from 1 to 1000000, got '%s'\n", option, text);
  exit(FAILED);
}

static void fail(const char* what, const char* which, TF_Status* status) {
  fprintf(stderr, "serve: %s '%s': %s\n", what, which, TF_Message(status));
  TF_DeleteStatus(status);
  exit(FAILED);
}

static Options read_options(int count, char** arguments, TF_Status* status) {
  static const struct option known[] = {
      {"ops", required_argument, NULL, 'o'},
      {"batch", required_argument, NULL, 'b'},
      {"n-best", required_argument, NULL, 'n'},
      {"help", no_argument, NULL, 'h'},
      {0},
  };
  Options options = {.batch = 64};
  int letter;
  while ((letter = getopt_long(count, arguments, "o:b:n:h", known, NULL)) != -1) {
    switch (letter) {
      case 'o':
        if (!model_load_operations(optarg, status)) fail("cannot load the operations", optarg, status);
        break;
      case 'b':
        options.batch = positive(optarg, "--batch");
        break;
      case 'n':
        options.best = positive(optarg, "--n-best");
        break;
      case 'h':
        fputs(HELP, stdout);
        exit(OK);
      default:
        fputs("Try 'serve --help'.\n", stderr);
        exit(FAILED);
    }
  }
  if (optind + 1 != count) {
    fprintf(stderr, "serve: give one FOLDER, the SavedModel; got %d. Try 'serve --help'.\n", count - optind);
    exit(FAILED);
  }
  options.folder = arguments[optind];
  return options;
}

static Lines make_lines(size_t capacity) {
  Lines lines = {calloc(capacity, sizeof(char*)), calloc(capacity, sizeof(size_t)), calloc(capacity, sizeof(Text)), 0, 1};
  if (lines.buffers == NULL || lines.capacities == NULL || lines.texts == NULL) abort();
  return lines;
}

static void free_lines(Lines* lines, size_t capacity) {
  for (size_t i = 0; i < capacity; i++) free(lines->buffers[i]);
  free(lines->buffers);
  free(lines->capacities);
  free(lines->texts);
}

// Reads the next batch; a line end is no part of its line. False at the end of the input.
static bool read_lines(Lines* lines, size_t capacity) {
  lines->first += lines->count;
  for (lines->count = 0; lines->count < capacity; lines->count++) {
    size_t i = lines->count;
    ssize_t size = getline(&lines->buffers[i], &lines->capacities[i], stdin);
    if (size < 0) break;
    if (size > 0 && lines->buffers[i][size - 1] == '\n') size--;
    lines->texts[i] = (Text){lines->buffers[i], (size_t)size};
  }
  return lines->count > 0;
}

static void write_text(Text text) {
  for (size_t i = 0; i < text.size; i++) putchar(text.at[i] == '\n' ? ' ' : text.at[i]);
  putchar('\n');
}

static void write_answers(const Answers* answers, size_t first, size_t best) {
  size_t shown = best == 0 ? 1 : best < answers->beams ? best : answers->beams;
  for (size_t row = 0; row < answers->rows; row++)
    for (size_t beam = 0; beam < shown; beam++) {
      if (best > 0) {
        printf("%zu\t", first + row);
        if (answers->scores != NULL) printf("%.6g", answers_score(answers, row, beam));
        putchar('\t');
      }
      write_text(answers_text(answers, row, beam));
    }
}

// Answers lines together and, if the model refuses them, one by one, so that a line never fails another. Returns
// whether none was refused.
static bool answer(Model* model, const Text* texts, size_t count, size_t first, size_t best, TF_Status* status) {
  Answers answers;
  if (model_run(model, texts, count, &answers, status)) {
    write_answers(&answers, first, best);
    answers_free(&answers);
    return true;
  }
  if (count == 1) {
    fprintf(stderr, "serve: line %zu is refused: %s\n", first, TF_Message(status));
    if (best > 0) printf("%zu\t\t", first);
    putchar('\n');
    return false;
  }
  bool all = true;
  for (size_t i = 0; i < count; i++) all &= answer(model, &texts[i], 1, first + i, best, status);
  return all;
}

int main(int count, char** arguments) {
  TF_Status* status = TF_NewStatus();
  Options options = read_options(count, arguments, status);
  Model* model = model_load(options.folder, status);
  if (model == NULL) fail("cannot serve", options.folder, status);

  bool all = true;
  Lines lines = make_lines(options.batch);
  while (read_lines(&lines, options.batch)) {
    all &= answer(model, lines.texts, lines.count, lines.first, options.best, status);
    fflush(stdout);
  }
  bool broken = ferror(stdin) || ferror(stdout);
  if (broken) fprintf(stderr, "serve: %s\n", ferror(stdin) ? "cannot read the input" : "cannot write the answers");

  free_lines(&lines, options.batch);
  model_free(model);
  TF_DeleteStatus(status);
  return broken ? FAILED : all ? OK : SOME_REFUSED;
}
