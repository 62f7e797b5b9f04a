"""Nets and solvers that are not built: refusals by line, and damaged files."""

import math

import pytest
from caffe_nets import image, layer, net_from, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from prototxts import CAFFENET, LEGACY, LENET, QUICK, SOLVER

from dualnet.caffe.layer_data import DATA_LAYERS
from dualnet.caffe.layer_table import LAYERS
from dualnet.caffe.messages import ENUMS
from dualnet.caffe.prototxt import PrototxtError, parse
from dualnet.caffe.schema import MESSAGES, decode
from dualnet.caffe.solver_file import solver_of

# -- refusals --------------------------------------------------------------------------------------

CONV = "convolution_param { num_output: 2 kernel_size: 3 %s }"


@pytest.mark.parametrize(("text", "line", "sentence"), [
    ('name: "x"', 1, "expected a net with layers"),
    (image(), 1, "no layer with bottoms in the phase TRAIN"),
    (image(layer("Convlution", CONV % "")), 3, "unknown type; did you mean Convolution?"),
    (image(layer("BatchNorm")), 3, "Caffe has and dualnet has not"),
    (image('layer { name: "a" bottom: "data" top: "a" }'), 3, "needs a 'type'"),
    (image(layer("ReLU", bottom="dta")), 3, "no layer before it gives; did you mean data?"),
    (image(layer("ReLU", name="a"), layer("TanH", name="a")), 5, "gives already"),
    (image(layer("ReLU", 'top: "b"')), 4, "takes 1 top, found 2"),
    (image('layer { name: "a" type: "Eltwise" bottom: "data" top: "a" }'), 3, "at least 2 bottoms"),
    (image(layer("Convolution", "convolution_param { kernel_size: 3 }")), 4,
     "needs a 'num_output' of at least 1, found none"),
    (image(layer("Convolution", "convolution_param { num_output: 2 }")), 4,
     "needs one 'kernel_size'"),
    (image(layer("Convolution", CONV % "kernel_h: 3")), 4, "found both"),
    (image(layer("Convolution", CONV % "stride: 0")), 4, "'stride' must be at least 1, found 0"),
    (image(layer("Convolution", CONV % "group: 3")), 3, "cannot split 4 channels and 2 outputs"),
    (image(layer("Convolution", CONV % "dilation: 3")), 3, "a kernel of 7 pixels, more than the 6"),
    (image(layer("Convolution", CONV % "weight_filler { type: 'xaver' }")), 4,
     "unknown filler 'xaver'; did you mean xavier?"),
    (image(layer("Convolution", CONV % "weight_filler { type: 'gaussian' std: -1 }")), 4,
     "'std' must be at least 0"),
    (image(layer("Convolution", CONV % "bias_filler { type: 'bilinear' }")), 3,
     "bilinear filler needs a square kernel"),
    (image(layer("Convolution", "param {} param {} param {} " + CONV % "")), 4, "at most as many"),
    (image(layer("Convolution", CONV % ""), shape="dim: 2 dim: 4"), 3, "4 dimensions"),
    (image(layer("Pooling", "pooling_param { kernel_size: 0 }")), 4, "must be at least 1"),
    (image(layer("Pooling", "pooling_param { kernel_size: 2 pad: 2 }")), 3, "pad must be smaller"),
    (image(layer("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }")), 3, "MAX or AVE"),
    (image(layer("Pooling", "pooling_param { global_pooling: true kernel_size: 2 }")), 3,
     "takes no kernel_size"),
    (image(layer("LRN", "lrn_param { local_size: 4 }")), 3, "local_size must be odd"),
    (image(layer("Dropout", "dropout_param { dropout_ratio: 1 }")), 3, "between 0 and 1"),
    (image(layer("InnerProduct", "inner_product_param { num_output: 2 axis: 7 }")), 3, "no axis 7"),
    (image(layer("SoftmaxWithLoss", bottom='data" bottom: "label'), label=True), 3,
     "needs 72 labels"),
    (image(layer("ReLU", "propagate_down: true propagate_down: false")), 4, "for each of 1 bottom"),
    (image(layer("ReLU", "loss_weight: 1 loss_weight: 2")), 4, "'loss_weight' for each of 1 tops"),
    (image(layer("ReLU", "include { } exclude { }")), 4, "takes one kind"),
    (image(layer("ReLU"), shape="dim: 0"), 1, "dimensions of at least 1"),
    (image(layer("Python", 'python_param { layer: "EuclidianLossLayer" }')), 4,
     "did you mean EuclideanLossLayer?"),
    ('layer { type: "Data" top: "data" data_param { batch_size: 0 } }', 1, "'batch_size' of at"),
    ('input: "a" input_dim: 1', 1, "expected 4 'input_dim'"),
    ('layers { layer { name: "a" } }', 1, "upgrade_net_proto_text"),
    ('layer { } layers { }', 1, "found both")])
def test_a_net_that_cannot_be_built_is_refused_with_the_line(text, line, sentence):
    error = refused(text)
    assert sentence in str(error) and error.line == line, str(error)


def test_a_data_layer_whose_images_are_elsewhere_asks_for_their_shape():
    assert "reads its images from 'train_lmdb'" in str(refused(LENET, image_shape=None))


@pytest.mark.parametrize("message", sorted(set(MESSAGES) - {"NetParameter", "SolverParameter"}))
def test_every_message_names_an_unknown_field_and_every_field_a_wrong_value(message):
    with pytest.raises(PrototxtError, match="has no field 'zzz_wrong'") as caught:
        decode(parse("\n zzz_wrong: 1"), message)
    assert caught.value.line == 2
    for name, field in MESSAGES[message].items():
        for wrong in ("{ }", "3 3", '"a"', "1.5", "-1e400", "WORD"):
            try:
                decode(parse(f"\n\n{name}: {wrong}"), message)
            except PrototxtError as error:
                assert error.line == 3
            else:
                is_fitting = {"{ }": field.type in MESSAGES or field.type == "any",
                              '"a"': field.type == "string", "1.5": field.type == "float"}
                assert is_fitting.get(wrong, False), (name, wrong)


def test_every_default_is_a_value_of_its_field():
    for message, fields in MESSAGES.items():
        record = decode(parse(""), message)
        for name, field in fields.items():
            assert field.type in {*MESSAGES, *ENUMS, "any", "int32", "uint32", "int64", "float",
                                  "bool", "string"}
            if field.is_repeated:
                assert record[name] == []
            elif field.default is not None:
                assert record[name] is not None


# -- damage ----------------------------------------------------------------------------------------

SOURCES = [LENET, QUICK, CAFFENET] + [
    path.read_text() for path in sorted(LEGACY.glob("small/*net?.prototxt"))]


@st.composite
def damaged(draw, sources):
    """A real file with characters or tokens deleted, doubled, exchanged or replaced."""
    text = draw(st.sampled_from(sources))
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            place = draw(st.integers(0, len(text) - 1))
            length = draw(st.sampled_from([1, 1, 1, 5, 100]))
            new = draw(st.sampled_from(["", text[place:place + length] * 2, "{", "}", '"', "0", "-",
                                        "9", ":", "\n", "#", "x", "\\", "\x00", "\xe9"]))
            text = text[:place] + new + text[place + length:]
        else:
            words = text.split(" ")
            i, j = (draw(st.integers(0, len(words) - 1)) for _ in range(2))
            words[i], words[j] = draw(st.sampled_from(
                [(words[j], words[i]), (words[j], words[j]), ("", words[j])]))
            text = " ".join(words)
        text = text or " "
    return text


@settings(max_examples=250, deadline=None)
@given(text=damaged(SOURCES), phase=st.sampled_from(["TRAIN", "TEST"]))
def test_a_damaged_net_is_built_or_refused_with_its_line(text, phase):
    try:
        net = net_from(text, phase, device="meta")
        net.as_sequential()
    except PrototxtError as error:
        assert 1 <= error.line <= text.count("\n") + 1
        assert "\n" not in str(error)


SOLVERS = [SOLVER] + [path.read_text() for path in sorted(LEGACY.glob("thesis/*_solver.prototxt"))]


@settings(max_examples=200, deadline=None)
@given(text=damaged(SOLVERS))
def test_a_damaged_solver_is_read_or_refused_with_its_line(text):
    try:
        found = solver_of(parse(text))
        assert math.isfinite(found.rate(0))
    except PrototxtError as error:
        assert 1 <= error.line <= text.count("\n") + 1


def test_every_type_of_layer_is_named_in_the_list_of_the_known():
    text = str(refused(image(layer("Zzz"))))
    assert all(name in text for name in [*LAYERS, *DATA_LAYERS, "Python"])
