"""What is known of operations of `keras.ops`, by the names of their classes."""

# Each element of the output follows from those at its place in the inputs.
ELEMENTWISE = set(
    """Absolute Add Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh BitwiseAnd BitwiseInvert BitwiseNot BitwiseOr
    BitwiseXor Cast Cbrt Ceil Celu Clip Copy Cos Cosh Deg2rad Divide DivideNoNan Elu Equal Erf Erfc Exp Exp2 Expm1 Floor
    FloorDivide Fmax Fmin Fmod Gelu Greater GreaterEqual HardShrink HardSigmoid HardSilu HardTanh Heaviside Hypot
    Isfinite Isinf Isnan LeakyRelu LeftShift Less LessEqual Log Log10 Log1p Log2 LogSigmoid Logaddexp Logaddexp2
    LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mod Multiply NanToNum Negative NotEqual Power Rad2deg
    Reciprocal Relu Relu6 RightShift Round Rsqrt Selu Sigmoid Sign Signbit Silu Sin Sinc Sinh SoftShrink Softplus
    Softsign SparsePlus SparseSigmoid Sqrt Square Squareplus StopGradient Subtract Tan Tanh TanhShrink Threshold
    TrueDivide Trunc Where""".split()
)
# Only the shape of the input counts.
CONSTANT = {"FullLike", "OnesLike", "ZerosLike"}
# The axes that the operation names are gone, or of length 1.
REDUCTIONS = {
    "All", "Amax", "Amin", "Any", "Argmax", "Argmin", "CountNonzero", "Logsumexp", "Max", "Mean", "Median", "Min",
    "Norm", "Prod", "Std", "Sum", "Var",
}  # fmt: skip
