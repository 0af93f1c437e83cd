"""Asks a TensorFlow Serving model for translations over gRPC.

README.md tells how to start the server. For each text, its answers with their scores:

    pip install tensorflow-serving-api
    python client_grpc.py "Wednesday, August 16, 2023" "2023년 8월 16일 수요일"
"""

import argparse


def translate(texts: list[str], address: str, model: str, timeout: float = 60) -> tuple[list[list[str]], list]:
    """The answers (B, N), the best first, and their scores (B, N)."""
    try:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
    except ImportError as error:
        raise SystemExit(f"This needs gRPC's classes: pip install tensorflow-serving-api ({error})") from None

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto([text.encode() for text in texts], shape=[len(texts)]))
    request.output_filter.extend(["texts", "scores"])
    with grpc.insecure_channel(address) as channel:
        try:
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            raise SystemExit(f"{address} answered {error.code().name}: {error.details()}") from None
    answers = tf.make_ndarray(response.outputs["texts"])
    return [[text.decode() for text in row] for row in answers], tf.make_ndarray(response.outputs["scores"]).tolist()


def main() -> None:
    """Print the answers of each text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--address", default="localhost:8500")
    parser.add_argument("--model", default="translator")
    options = parser.parse_args()
    answers, scores = translate(options.texts, options.address, options.model)
    for text, row, row_scores in zip(options.texts, answers, scores, strict=True):
        for candidate, score in zip(row, row_scores, strict=True):
            print(f"{text}\t{score:.4f}\t{candidate}")


if __name__ == "__main__":
    main()
