"""Which fields the messages of caffe.proto have, as tables.

    MessageName
      name type; name type = default; name* type

One value, absent unless given; one value; any number of values.  Types are int32, uint32, int64,
float, bool, string, an enumeration or a message.  `any` is a message of Caffe that is known by name
only: a layer that needs it is refused by its type.
"""

ENUMS = {
    "Phase": ("TRAIN", "TEST"),
    "DimCheckMode": ("STRICT", "PERMISSIVE"),
    "VarianceNorm": ("FAN_IN", "FAN_OUT", "AVERAGE"),
    "Engine": ("DEFAULT", "CAFFE", "CUDNN"),
    "PoolMethod": ("MAX", "AVE", "STOCHASTIC"),
    "RoundMode": ("CEIL", "FLOOR"),
    "NormRegion": ("ACROSS_CHANNELS", "WITHIN_CHANNEL"),
    "NormalizationMode": ("FULL", "VALID", "BATCH_SIZE", "NONE"),
    "EltwiseOp": ("PROD", "SUM", "MAX"),
    "DB": ("LEVELDB", "LMDB"),
    "SolverMode": ("CPU", "GPU"),
    "SolverType": ("SGD", "NESTEROV", "ADAGRAD", "RMSPROP", "ADADELTA", "ADAM"),
    "SnapshotFormat": ("HDF5", "BINARYPROTO"),
    # The layers of files from before 2015, `layers { type: CONVOLUTION }`, by their numbers.
    "V1LayerType": (
        "NONE", "ACCURACY", "BNLL", "CONCAT", "CONVOLUTION", "DATA", "DROPOUT", "EUCLIDEAN_LOSS",
        "FLATTEN", "HDF5_DATA", "HDF5_OUTPUT", "IM2COL", "IMAGE_DATA", "INFOGAIN_LOSS",
        "INNER_PRODUCT", "LRN", "MULTINOMIAL_LOGISTIC_LOSS", "POOLING", "RELU", "SIGMOID",
        "SOFTMAX", "SOFTMAX_LOSS", "SPLIT", "TANH", "WINDOW_DATA", "ELTWISE", "POWER",
        "SIGMOID_CROSS_ENTROPY_LOSS", "HINGE_LOSS", "MEMORY_DATA", "ARGMAX", "THRESHOLD",
        "DUMMY_DATA", "SLICE", "MVN", "ABSVAL", "SILENCE", "CONTRASTIVE_LOSS", "EXP",
        "DECONVOLUTION"),
}

# The parameters of layers, in both forms of a layer.
_PARAMETERS = """
  transform_param TransformationParameter; loss_param LossParameter;
  accuracy_param AccuracyParameter; concat_param ConcatParameter;
  convolution_param ConvolutionParameter; data_param DataParameter; dropout_param DropoutParameter;
  dummy_data_param DummyDataParameter; eltwise_param EltwiseParameter;
  image_data_param ImageDataParameter; inner_product_param InnerProductParameter;
  lrn_param LRNParameter; memory_data_param MemoryDataParameter; pooling_param PoolingParameter;
  power_param PowerParameter; relu_param ReLUParameter; sigmoid_param EngineParameter;
  softmax_param SoftmaxParameter; tanh_param EngineParameter; argmax_param any;
  contrastive_loss_param any; exp_param any; hdf5_data_param any; hdf5_output_param any;
  hinge_loss_param any; infogain_loss_param any; mvn_param any; slice_param any;
  threshold_param any; window_data_param any
"""

TABLES = f"""
NetParameter
  name string; layer* LayerParameter; layers* V1LayerParameter; input* string;
  input_shape* BlobShape; input_dim* int32; force_backward bool = false; state NetState;
  debug_info bool = false

NetState
  phase Phase = TEST; level int32 = 0; stage* string

NetStateRule
  phase Phase; min_level int32; max_level int32; stage* string; not_stage* string

BlobShape
  dim* int64

ParamSpec
  name string; share_mode DimCheckMode = STRICT; lr_mult float = 1; decay_mult float = 1

LayerParameter
  name string; type string; bottom* string; top* string; phase Phase; loss_weight* float;
  param* ParamSpec; propagate_down* bool; include* NetStateRule; exclude* NetStateRule;
  input_param InputParameter; flatten_param FlattenParameter; python_param PythonParameter;
  elu_param ELUParameter; batch_norm_param any; bias_param any; clip_param any; crop_param any;
  embed_param any; log_param any; parameter_param any; prelu_param any; recurrent_param any;
  reduction_param any; reshape_param any; scale_param any; spp_param any; swish_param any;
  tile_param any
{_PARAMETERS}

V1LayerParameter
  name string; type V1LayerType; bottom* string; top* string; include* NetStateRule;
  exclude* NetStateRule; param* string; blob_share_mode* DimCheckMode; blobs_lr* float;
  weight_decay* float; loss_weight* float; layer any
{_PARAMETERS}

FillerParameter
  type string = constant; value float = 0; min float = 0; max float = 1; mean float = 0;
  std float = 1; sparse int32 = -1; variance_norm VarianceNorm = FAN_IN

TransformationParameter
  scale float = 1; mirror bool = false; crop_size uint32 = 0; mean_file string; mean_value* float;
  force_color bool = false; force_gray bool = false

LossParameter
  ignore_label int32; normalization NormalizationMode = VALID; normalize bool

AccuracyParameter
  top_k uint32 = 1; axis int32 = 1; ignore_label int32

ConcatParameter
  axis int32 = 1; concat_dim uint32 = 1

ConvolutionParameter
  num_output uint32; bias_term bool = true; pad* uint32; kernel_size* uint32; stride* uint32;
  dilation* uint32; pad_h uint32 = 0; pad_w uint32 = 0; kernel_h uint32; kernel_w uint32;
  stride_h uint32; stride_w uint32; group uint32 = 1; weight_filler FillerParameter;
  bias_filler FillerParameter; engine Engine = DEFAULT; axis int32 = 1;
  force_nd_im2col bool = false

DataParameter
  source string; batch_size uint32; rand_skip uint32 = 0; backend DB = LEVELDB; scale float = 1;
  mean_file string; crop_size uint32 = 0; mirror bool = false; force_encoded_color bool = false;
  prefetch uint32 = 4

DropoutParameter
  dropout_ratio float = 0.5

DummyDataParameter
  data_filler* FillerParameter; shape* BlobShape; num* uint32; channels* uint32; height* uint32;
  width* uint32

EltwiseParameter
  operation EltwiseOp = SUM; coeff* float; stable_prod_grad bool = true

ELUParameter
  alpha float = 1

EngineParameter
  engine Engine = DEFAULT

FlattenParameter
  axis int32 = 1; end_axis int32 = -1

ImageDataParameter
  source string; batch_size uint32 = 1; rand_skip uint32 = 0; shuffle bool = false;
  new_height uint32 = 0; new_width uint32 = 0; is_color bool = true; scale float = 1;
  mean_file string; crop_size uint32 = 0; mirror bool = false; root_folder string

InnerProductParameter
  num_output uint32; bias_term bool = true; weight_filler FillerParameter;
  bias_filler FillerParameter; axis int32 = 1; transpose bool = false

InputParameter
  shape* BlobShape

LRNParameter
  local_size uint32 = 5; alpha float = 1; beta float = 0.75;
  norm_region NormRegion = ACROSS_CHANNELS; k float = 1; engine Engine = DEFAULT

MemoryDataParameter
  batch_size uint32; channels uint32; height uint32; width uint32

PoolingParameter
  pool PoolMethod = MAX; pad uint32 = 0; pad_h uint32 = 0; pad_w uint32 = 0; kernel_size uint32;
  kernel_h uint32; kernel_w uint32; stride uint32 = 1; stride_h uint32; stride_w uint32;
  engine Engine = DEFAULT; global_pooling bool = false; round_mode RoundMode = CEIL

PowerParameter
  power float = 1; scale float = 1; shift float = 0

PythonParameter
  module string; layer string; param_str string; share_in_parallel bool = false

ReLUParameter
  negative_slope float = 0; engine Engine = DEFAULT

SoftmaxParameter
  engine Engine = DEFAULT; axis int32 = 1

SolverParameter
  net string; net_param NetParameter; train_net string; test_net* string;
  train_net_param NetParameter; test_net_param* NetParameter; train_state NetState;
  test_state* NetState; test_iter* int32; test_interval int32 = 0; test_compute_loss bool = false;
  test_initialization bool = true; base_lr float; display int32; average_loss int32 = 1;
  max_iter int32; iter_size int32 = 1; lr_policy string; gamma float; power float; momentum float;
  weight_decay float; regularization_type string = L2; stepsize int32; stepvalue* int32;
  clip_gradients float = -1; snapshot int32 = 0; snapshot_prefix string;
  snapshot_diff bool = false; snapshot_format SnapshotFormat = BINARYPROTO;
  snapshot_after_train bool = true; solver_mode SolverMode = GPU; device_id int32 = 0;
  random_seed int64 = -1; type string = SGD; solver_type SolverType; delta float = 1e-8;
  momentum2 float = 0.999; rms_decay float = 0.99; debug_info bool = false;
  layer_wise_reduce bool = true; weights* string
"""
