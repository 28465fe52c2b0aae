"""Collecting gives the same bytes however it is done: by any number of workers, in one go or after any kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgemim.errors import ArtifactError, ConfigError, DataError, EdgemimError
from edgemim.preprocess import Preprocess
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.statistics.collect import collect
from edgemim.quantize.statistics.store import load_statistics
from edgemim.quantize.statistics.tensor import Tensor

TENSORS = (
    Tensor(key="patch:input", value="images", channel_axis=1),
    Tensor(key="patch:output", value="patches", channel_axis=1),
    Tensor(key="attn.q:input", value="normed", channel_axis=-1),
    Tensor(key="attn:softmax", value="attention"),
    Tensor(key="mlp.down:input", value="active", channel_axis=-1),
    Tensor(key="mlp.down:input.again", value="active", histogram=False),
    Tensor(key="head:output", value="logits"),
)


@pytest.fixture(scope="module")
def model(attention_artifact):
    return attention_artifact.file("fp32.onnx").read_bytes()


@pytest.fixture(scope="module")
def calibration(noise_images, preprocess):
    return choose_calibration(noise_images(200), preprocess, count=75)


@pytest.fixture(scope="module")
def expected(model, calibration, tmp_path_factory):
    """Bytes of the statistics that one worker collects without a break."""
    return saved(collect(model, calibration, TENSORS, workers=1), tmp_path_factory.mktemp("expected"))


def saved(statistics, folder):
    statistics.save(folder / "saved.npz")
    return (folder / "saved.npz").read_bytes()


class StopError(Exception):
    """What a test raises to break off."""


def stop_after(count):
    def progress(done, total):
        if done == count:
            raise StopError

    return progress


def plain_values(model, calibration, names):
    """Every value of every image, by name, from a session of our own."""
    proto = onnx.load_from_string(model)
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = [session.run(list(names), {"images": batch}) for batch in calibration]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*runs, strict=True), strict=True)}


def test_it_learns_what_plain_numpy_finds_in_all_values_together(model, calibration):
    statistics = collect(model, calibration, TENSORS)
    names = ["patches", "normed", "attention", "active"]
    values = plain_values(model, calibration, names)
    values["images"] = np.concatenate(list(calibration))
    assert list(statistics) == [tensor.key for tensor in TENSORS]
    for tensor in TENSORS[:-1]:
        observed, found = statistics[tensor.key], values[tensor.value]
        assert observed.elements == found.size
        assert observed.maximum == np.abs(found).max()
        assert observed.negative == bool((found < 0).any())
        if tensor.histogram:
            bits = np.abs(found).ravel().view(np.uint32) // 2**16
            np.testing.assert_array_equal(observed.counts, np.bincount(bits.astype(np.int64), minlength=32768))
        if tensor.channel_axis is not None:
            channels = np.moveaxis(np.abs(found), tensor.channel_axis, 0)
            np.testing.assert_array_equal(observed.channel_maximum, channels.reshape(len(channels), -1).max(axis=1))
    assert statistics.images == calibration.hashes
    assert statistics.notes == ()


@pytest.mark.parametrize("workers", [1, 2, 3, None])
def test_the_number_of_workers_changes_no_byte(model, calibration, expected, workers, tmp_path):
    assert saved(collect(model, calibration, TENSORS, workers=workers), tmp_path) == expected


def test_the_order_of_the_images_changes_no_statistic(model, calibration):
    backwards = replace(calibration, indices=calibration.indices[::-1])
    one, other = (collect(model, images, TENSORS) for images in (calibration, backwards))
    for key, observed in one.items():
        assert observed.maximum == other[key].maximum
        np.testing.assert_array_equal(observed.counts, other[key].counts)


def test_a_model_in_memory_is_not_changed_and_gives_the_same(model, calibration, tmp_path):
    loaded = ir.from_proto(onnx.load_from_string(model))
    same = ir.to_proto(loaded).SerializeToString(deterministic=True)
    found = collect(loaded, calibration, TENSORS)
    assert saved(found, tmp_path) == saved(collect(same, calibration, TENSORS), tmp_path)
    assert ir.to_proto(loaded).SerializeToString(deterministic=True) == same


def test_a_graph_that_takes_pixels_gets_pixels(calibration, attention_model):
    normalising = with_pixels(attention_model)
    floats = collect(attention_model.SerializeToString(), calibration, TENSORS[1:])
    pixels = collect(normalising.SerializeToString(), calibration, TENSORS[1:])
    for key, observed in floats.items():
        # The same arithmetic in another order: the last bits of float32 differ.
        assert pixels[key].maximum == pytest.approx(observed.maximum, rel=1e-5)
    with pytest.raises(ValueError, match="no float activation 'pixels'"):
        collect(normalising.SerializeToString(), calibration, [Tensor(key="k", value="pixels")])


def with_pixels(model):
    """The same model behind a normalisation of its own: uint8 [1, 16, 16, 3] in."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    contract = Preprocess(size=(16, 16))
    constants = {
        "mean255": np.float32(contract.mean).reshape(1, 3, 1, 1) * 255,
        "std255": np.float32(contract.std).reshape(1, 3, 1, 1) * 255,
    }
    changed.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items())
    first = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean255"], ["centred"]),
        helper.make_node("Div", ["centred", "std255"], ["images"]),
    ]
    nodes = [*first, *changed.graph.node]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    changed.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, [1, 16, 16, 3]))
    return changed


# Before the first state is written, when it is, between two, and before the last image.
@pytest.mark.parametrize("kills", [(5,), (32,), (33, 64), (74,), (40, 50, 70)])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_was_broken_off_goes_on_and_ends_with_the_same_bytes(
    model, calibration, expected, kills, workers, tmp_path
):
    state = tmp_path / "state.npz"
    for count in kills:
        with pytest.raises(StopError):
            collect(model, calibration, TENSORS, workers=workers, state=state, progress=stop_after(count))
    seen = []
    statistics = collect(
        model,
        calibration,
        TENSORS,
        workers=workers,
        state=state,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert saved(statistics, tmp_path) == expected
    assert state.read_bytes() == expected
    assert statistics.notes == ()
    first = kills[-1] // 32 * 32 + 1
    assert seen == [(done, 75) for done in range(first, 76)]


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from conftest import NoiseImages, PREPROCESS
from test_collect import TENSORS
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.statistics.collect import collect

def progress(done, total):
    if done == 50:
        print("at 50", flush=True)
        time.sleep(600)

calibration = choose_calibration(NoiseImages(200), PREPROCESS, count=75)
collect(Path(sys.argv[1]).read_bytes(), calibration, TENSORS, workers=2, state=Path(sys.argv[2]), progress=progress)
"""


def test_a_killed_process_leaves_a_state_to_go_on_from(attention_artifact, calibration, expected, request, tmp_path):
    state, model, here = tmp_path / "state.npz", attention_artifact.file("fp32.onnx"), request.path.parent
    arguments = [sys.executable, "-c", KILLED, str(model), str(state), str(here), str(here.parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at 50\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]
    assert len(load_statistics(state).images) == 32
    assert saved(collect(model.read_bytes(), calibration, TENSORS, state=state), tmp_path) == expected


def test_a_finished_state_is_read_and_nothing_runs(model, noise_images, preprocess, expected, tmp_path):
    images = noise_images(200)
    calibration = choose_calibration(images, preprocess, count=75)
    state = tmp_path / "state.npz"
    collect(model, calibration, TENSORS, state=state)
    images.reads.clear()
    assert saved(collect(model, calibration, TENSORS, state=state), tmp_path) == expected
    assert images.reads == []


def test_more_images_that_begin_with_the_same_ones_add_to_the_state(
    model, noise_images, preprocess, expected, tmp_path
):
    images, state = noise_images(200), tmp_path / "state.npz"
    collect(model, choose_calibration(images, preprocess, count=40), TENSORS, state=state)
    images.reads.clear()
    statistics = collect(model, choose_calibration(images, preprocess, count=75), TENSORS, state=state)
    assert saved(statistics, tmp_path) == expected
    assert len(images.reads) == 35


def test_a_state_of_something_else_is_not_used_and_said_so(model, attention_model, noise_images, preprocess, tmp_path):
    state = tmp_path / "state.npz"
    calibration, other = (choose_calibration(noise_images(50), preprocess, count=8, seed=seed) for seed in (0, 1))
    mean = Preprocess(size=(16, 16), crop_ratio=1.0, mean=(0.5, 0.5, 0.5))
    attention_model.graph.initializer[0].raw_data = b"\x01" + attention_model.graph.initializer[0].raw_data[1:]
    cases = [
        (attention_model.SerializeToString(), calibration, TENSORS, "another model"),
        (model, calibration, TENSORS[1:], "other tensors"),
        (model, other, TENSORS, "other images"),
        (model, replace(calibration, preprocess=mean), TENSORS, "another preprocessing"),
        (model, replace(calibration, indices=calibration.indices[:4]), TENSORS, "other images"),
    ]
    for data, images, tensors, difference in cases:
        collect(model, calibration, TENSORS, state=state)
        found = collect(data, images, tensors, state=state)
        assert found.notes == (f"{state} held statistics of {difference}; they were collected anew",)
        fresh = collect(data, images, tensors)
        assert saved(found, tmp_path) == saved(fresh, tmp_path) == state.read_bytes()


def test_a_file_that_is_no_state_is_left_alone(model, calibration, tmp_path):
    state = tmp_path / "photo.jpg"
    state.write_bytes(b"precious")
    with pytest.raises(ArtifactError, match="holds no statistics that can be read"):
        collect(model, calibration, TENSORS, state=state)
    assert state.read_bytes() == b"precious"


@pytest.mark.parametrize("workers", [1, 3])
def test_only_a_few_images_are_under_way_at_a_time(model, noise_images, preprocess, workers):
    images, ahead = noise_images(60), []
    calibration = choose_calibration(images, preprocess, count=60)
    collect(
        model,
        calibration,
        TENSORS,
        workers=workers,
        progress=lambda done, total: ahead.append(len(images.reads) - done + 1),
    )
    assert max(ahead) <= workers + 1


def test_a_value_that_is_not_finite_names_its_module(attention_model, calibration):
    weights = {tensor.name: tensor for tensor in attention_model.graph.initializer}
    array = numpy_helper.to_array(weights["up_weight"]).copy()
    array[0, 0] = np.inf
    weights["up_weight"].CopyFrom(numpy_helper.from_array(array, "up_weight"))
    tensors = [*TENSORS[:4], Tensor(key="mlp.up:output", value="hidden")]
    with pytest.raises(EdgemimError, match=r"module 'mlp.up' gives values that are not finite .*image 0"):
        collect(attention_model.SerializeToString(), calibration, tensors, workers=2)


def test_an_image_that_cannot_be_read_ends_the_work(model, noise_images, preprocess):
    class Broken(noise_images):
        def image(self, index, /):
            if index == 17:
                raise DataError("image 17 is not an image that can be read")
            return super().image(index)

    calibration = choose_calibration(Broken(30), preprocess, count=30)
    for workers in (1, 2):
        with pytest.raises(DataError, match="image 17"):
            collect(model, calibration, TENSORS, workers=workers)


@pytest.mark.parametrize("value", ["nothing", "q_weight", "to_tokens", ""])
def test_what_is_no_activation_is_refused(model, calibration, value):
    with pytest.raises((ValueError, ConfigError), match=r"no float activation|needs a key and a value"):
        collect(model, calibration, [Tensor(key="k", value=value)])


def test_an_activation_that_is_not_float32_is_refused(attention_model, calibration):
    attention_model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["best"]))
    with pytest.raises(ValueError, match=r"'best' is a tensor\(int64\)"):
        collect(attention_model.SerializeToString(), calibration, [Tensor(key="k", value="best")])


@pytest.mark.parametrize(
    ("tensors", "workers", "message"),
    [
        ((), 1, "no tensor"),
        ((TENSORS[0], TENSORS[0]), 1, "two tensors have the key"),
        (TENSORS, 0, "at least 1; got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(model, calibration, tensors, workers, message):
    with pytest.raises(ConfigError, match=message):
        collect(model, calibration, tensors, workers=workers)
