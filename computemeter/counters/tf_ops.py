"""What each TensorFlow operation is to the counter: a formula, a known zero, or on the list.

The literature counts contractions. Pointwise work, reductions, lookups, shapes, random numbers,
communication and input pipelines are known zeros, and written out: by family where the names say
it, by name otherwise. What is not written out is listed as uncounted: never a silent zero. So is
what a later TensorFlow or a library of custom operations brings.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from computemeter.counters.tf_formulas import FORMULAS
from computemeter.counters.tf_graph import BRANCHES, CALLS, LOOPS
from computemeter.counters.tf_shapes import tensorflow

OperationClass = Literal["formula", "functions", "zero", "uncounted"]

# Of TensorFlow's own operations these do no contraction.
_FAMILIES = (
    # input pipelines and readers
    r"\w*(Dataset|Iterator|Reader)\w*",
    # collections of tensors
    r"(Empty)?Tensor(List|Map|Array)\w*",
    r"\w*(Queue|HashTable|Lookup|InitializeTable|Accumulator|Optional)\w*",
    r"(Ordered)?(Map)?(Uns|S)tage\w*",
    r"(Ordered)?Map(Clear|IncompleteSize|Peek|Size)",
    r"(Stack|Barrier|Anonymous)\w*",
    # variables, and the optimizers' updates of them
    r"(Resource)?(Sparse)?Apply\w+|XlaSparseCore\w+",
    r"(Resource|Tensor)?Scatter\w+|\w*(Assign|Variable)\w*",
    # random numbers
    r"\w*(Random|Rng|SeedGenerator|CandidateSampler)\w*",
    r"State(less|ful)(Multinomial|Parameterized|Sample|Standard|Truncated|Uniform|Shuffle)\w*",
    # text, files, images, messages
    r"(Decode|Encode|Parse|Serialize|Deserialize|Save|Restore|Read|Write|Print|Debug)\w*",
    r"\w*(String|Unicode|Matching|Regex|Summary|Stats|Image|BoundingBox|NonMaxSuppression)\w*",
    # communication
    r"\w*(Collective|Nccl|Infeed|Outfeed|TPUEmbedding|Prelinearize|AllToAll)\w*",
    r"TPU(Annotate|Compilation|Copy|Dummy|Ordinal|Partitioned[IO]|Replicate)\w*",
    # reductions, pooling, trees
    r"((Sparse|Unsorted)?Segment|SparseReduce|(Max|Avg)Pool)\w+|\w*Bincount",
    r"(Dilation2D|BoostedTrees|IsBoostedTrees|CTC)\w+|Dilation2D",
    # numbers of fewer bits: their products have formulas
    r"(De|Fake|Re|UniformDe|UniformRe)?[Qq]uant(iz)?\w*",
    # parts and layouts of matrices
    r"(Batch)?Matrix(Band|Diag|SetDiag)\w*|Ragged\w+|Sparse(Cross|DenseCwise|FillEmptyRows)\w*",
    # sessions and locks
    r"\w*(SessionHandle|SessionTensor|MemoryCache|Mutex|DatasetVariant)\w*",
)
_ZERO_FAMILY = re.compile("|".join(f"(?:{family})" for family in _FAMILIES))
_LOOKS_LIKE_CONTRACTION = re.compile(
    r"Mat[Mm]ul|Conv[1-4D]|Convolution|Dot|Einsum|RNN|LSTM|GRU|FFT|Solve|Cholesky|Attention"
)

# A later version or a gradient of a zero is one, too.
_VARIANT = re.compile(r"(V\d+|Grad)+$")

_ZEROS = frozenset(
    """
    Abort Abs AccumulateN Acos Acosh Add AddManySparseToTensorsMap AddN AddSparseToTensorsMap
    AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation All Angle Any ApproximateEqual
    ApproxTopK _Arg ArgMax ArgMin _ArrayToList Asin Asinh Assert Atan Atan2 Atanh AvgPool
    Batch BatchNormWithGlobalNormalization BatchToSpace BatchToSpaceND BesselI0 BesselI0e
    BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0
    BesselY1 Betainc BiasAdd Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs
    BroadcastGradientArgs BroadcastTo Bucketize Cast Ceil CheckNumerics CheckPinned
    ClipByValue Complex ComplexAbs CompositeTensorVariantFromComponents
    CompositeTensorVariantToComponents CompressElement ComputeAccidentalHits ComputeBatchSize
    Concat ConcatOffset ConfigureDistributedTPU Conj ConjugateTranspose Const ControlTrigger
    ConvertToCooTensor ConvertToListOfSparseCoreCooTensors
    ConvertToSparseCoreCsrWrappedCooTensor Copy CopyHost CopyToMesh Cos Cosh CountUpTo
    CropAndResize CropAndResizeGradBoxes Cross CrossReplicaSum CSRSparseMatrixComponents
    CSRSparseMatrixToDense CSRSparseMatrixToSparseTensor CudnnRNNCanonicalToParams
    CudnnRNNParamsSize CudnnRNNParamsToCanonical Cumprod Cumsum CumulativeLogsumexp
    DataFormatDimMap DataFormatVecPermute Dawsn DeepCopy DenseCountSparseOutput
    DenseToCSRSparseMatrix DenseToDenseSetOperation DenseToSparseSetOperation DepthToSpace
    DestroyResourceOp _DeviceArg DeviceIndex _DeviceRetval Diag DiagPart Digamma
    DisableCopyOnRead DistributedSave Div DivNoNan DTensorAllGather DTensorAllReduce
    DTensorAllScatter DTensorAllToAll DTensorReduceScatter DummyIterationCounter
    DynamicPartition DynamicStitch _EagerConst EditDistance Elu Empty EnsureShape Enter Equal
    Erf Erfc Erfinv EuclideanNorm Exit Exp ExpandDims ExperimentalThreadPoolHandle Expint
    Expm1 ExtractGlimpse ExtractJpegShape ExtractVolumePatches Fact FakeParam
    FileSystemSetConfiguration Fill Fingerprint Floor FloorDiv FloorMod FractionalAvgPool
    FractionalMaxPool FresnelCos FresnelSin FusedBatchNorm Gather GatherNd
    GenerateVocabRemapping GetElementAtIndex GetMinibatchesInCsrWithPhysicalReplica
    GetMinibatchSplitsWithPhysicalReplica GetOptions GlobalIterId Greater GreaterEqual
    GuaranteeConst HistogramFixedWidth _HostCast HostConst _HostRecv _HostSend HSVToRGB
    Identity IdentityN Igamma Igammac IgammaGradA Imag ImmutableConst ImportEvent InplaceAdd
    InplaceSub InplaceUpdate InTopK Inv Invert InvertPermutation IsFinite IsInf IsNan
    IsotonicRegression IsTensorFloat32Enabled KthOrderStatistic L2Loss LeakyRelu LeftShift
    Less LessEqual Lgamma LinSpace ListDiff _ListToArray LoadAndRemapMatrix Log Log1p
    LogicalAnd LogicalNot LogicalOr LogSoftmax LoopCond LowerBound LRN LSTMBlockCellGrad
    MakeUnique Max Maximum MaxPool Mean MergeV2Checkpoints Min Minimum MirrorPad Mod Mul
    MulNoNan Multinomial Ndtri Neg NextAfter NextIteration NonDeterministicInts NoOp NotEqual
    NthElement OneHot OnesLike Pack Pad ParallelConcat ParallelDynamicStitch
    ParameterizedTruncatedNormal Placeholder PlaceholderWithDefault Polygamma PopulationCount
    Pow PreventGradient Prod QuantizedConcatV2 Range Rank _ReadVariablesOp Real RealDiv
    Reciprocal RecordInput _Recv Recv ReduceJoin RefEnter RefExit RefIdentity RefNextIteration
    RefSelect Relayout RelayoutLike Relu Relu6 Reshape ResizeArea ResizeBicubic ResizeBilinear
    ResizeNearestNeighbor ResourceCountUpTo ResourceGather ResourceGatherNd _Retval Reverse
    ReverseSequence RGBToHSV RightShift Rint Roll Round Rsqrt ScaleAndTranslate SdcaFprint
    SdcaShrinkL1 Select Selu _Send Send SetSize Shape ShapeN ShardedFilename ShardedFilespec
    ShutdownDistributedTPU Sigmoid Sign Sin Sinh Size Skipgram Slice Snapshot SobolSample
    Softmax SoftmaxCrossEntropyWithLogits Softplus Softsign SortListOfSparseCoreCooTensors
    SpaceToBatch SpaceToBatchND SpaceToDepth SparseAdd SparseConcat SparseCountSparseOutput
    SparseMatrixAdd SparseMatrixMul SparseMatrixNNZ SparseMatrixOrderingAMD
    SparseMatrixSoftmax SparseMatrixTranspose SparseMatrixZeros SparseReorder SparseReshape
    SparseSlice SparseSoftmax SparseSoftmaxCrossEntropyWithLogits SparseSparseMaximum
    SparseSparseMinimum SparseSplit SparseTensorDenseAdd SparseTensorToCSRSparseMatrix
    SparseToDense SparseToSparseSetOperation Spence Split SplitV Sqrt Square SquaredDifference
    Squeeze StochasticCastToInt StopGradient StoreMinibatchStatisticsInFdo StridedSlice Sub
    Substr Sum SyncDevice TakeManySparseFromTensorsMap Tan Tanh TensorStridedSliceUpdate
    ThreadPoolHandle Tile Timestamp ToBool TopK TopKUnique TopKWithUnique Transpose
    TruncateDiv TruncatedNormal TruncateMod Unbatch UncompressElement UniformQuantize
    UniformQuantizedAdd UniformQuantizedClipByValue Unique UniqueWithCounts Unpack
    UnravelIndex UpperBound VarHandleOp _VarHandlesOp VarIsInitializedOp Where WindowOp
    WorkerHeartbeat Xdivy XlaAllReduce XlaBroadcastHelper XlaClusterOutput XlaConcatND
    XlaDequantize XlaDynamicSlice XlaDynamicUpdateSlice XlaGather XlaKeyValueSort
    XlaOptimizationBarrier XlaPad XlaRecv XlaReduce XlaReducePrecision XlaReduceScatter
    XlaReduceWindow XlaRemoveDynamicDimensionSize XlaReplicaId XlaRngBitGenerator XlaScatter
    XlaSelectAndScatter XlaSend XlaSetBound XlaSetDynamicDimensionSize XlaSharding XlaSort
    XlaSplitND XlaSpmdFullToShardShape XlaSpmdShardToFullShape XlaVariadicReduce
    XlaVariadicSort Xlog1py Xlogy ZerosLike Zeta
    """.split()  # noqa: SIM905 - one name a line would be 360 lines
)


def is_zero(kind: str) -> bool:
    """Say whether a type of operation is known to do no contraction."""
    if kind in _ZEROS or _VARIANT.sub("", kind) in _ZEROS:
        return True
    in_family = _ZERO_FAMILY.fullmatch(kind) and not _LOOKS_LIKE_CONTRACTION.search(kind)
    return bool(in_family) and _is_own(kind)


def classify(kind: str) -> OperationClass:
    """Say what a type of operation is to the counter."""
    if kind in FORMULAS:
        return "formula"
    if kind in LOOPS or kind in BRANCHES or kind in CALLS:
        return "functions"
    return "zero" if is_zero(kind) else "uncounted"


@cache
def _is_own(kind: str) -> bool:
    """Say whether the operation is TensorFlow's own.

    `tf.raw_ops` is written when TensorFlow is built: no custom operation is in it, whatever its
    name looks like.
    """
    return hasattr(tensorflow().raw_ops, kind)
