"""Any valid manifest survives writing and reading. test_bundle.py tests the messages for invalid ones."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.config.runtimes import INPUT_LAYOUTS, RUNTIMES
from edgekit.errors import BundleError
from edgekit.runtime.bundle import Manifest, parse_manifest
from tests.helpers.strategies import preprocessings
from tests.helpers.tiny import tiny_manifest

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FILES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(
    lambda name: name.casefold() not in {"manifest.json", "labels.txt", "golden.npz"}
)
ENTRIES = st.fixed_dictionaries(
    {"sha256": st.text("0123456789abcdef", min_size=64, max_size=64), "size_bytes": st.integers(0, 1 << 50)}
)
LAYERS = st.fixed_dictionaries(
    {"name": TEXT, "op": TEXT, "macs": st.integers(0, 1 << 60), "int8": st.booleans()},
    optional={"kind": st.sampled_from(("static", "dynamic", "float")), "reason": TEXT},
)

MEANINGS = (("single-label", "softmax"), ("multi-label", "sigmoid"), ("embedding", "normalize"), ("embedding", "none"))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any valid manifest."""
    target = draw(st.sampled_from(sorted(RUNTIMES)))
    size = draw(preprocessings(largest=4096))
    model, others = draw(FILES), draw(st.dictionaries(FILES, ENTRIES, max_size=2))
    names = (model, "labels.txt", "golden.npz")
    classes = draw(st.integers(1, 20) | st.integers(1, 1_000_000))
    task, activation = draw(st.sampled_from(MEANINGS))
    few = activation == "sigmoid" and classes <= 20
    dtype = draw(st.sampled_from(sorted(INPUT_LAYOUTS)))
    one_each = st.lists(st.floats(0, 1), min_size=classes, max_size=classes) if few else st.nothing()
    return tiny_manifest(
        target,
        precision=draw(st.sampled_from(("float", "int8"))),
        scheme=draw(TEXT),
        model_file=model,
        input_shape=size.shape_of(dtype),
        layout=INPUT_LAYOUTS[dtype],
        dtype=dtype,
        classes=classes,
        task=task,
        activation=activation,
        thresholds=draw(st.none() | one_each.map(tuple)),
        input_name=draw(TEXT),
        output_name=draw(TEXT),
        preprocessing=size,
        engine={
            "package": draw(st.sampled_from(("onnxruntime", "ai-edge-litert"))),
            "minimum": draw(st.sampled_from(("1", "1.20.0"))),
        },
        device_class=draw(TEXT),
        fingerprint=draw(TEXT),
        session=draw(st.dictionaries(TEXT, JSON, max_size=3)),
        threads=draw(st.none() | st.integers(1, 1024)),
        layers=tuple(draw(st.lists(LAYERS, max_size=3))),
        provenance=draw(st.dictionaries(TEXT, JSON, max_size=3)),
        files=others | {name: draw(ENTRIES) for name in names},
    )


@given(manifest=manifests())
def test_a_manifest_reads_back_as_it_was_written(manifest: Manifest) -> None:
    assert parse_manifest(json.dumps(manifest.to_dict(), allow_nan=False)) == manifest


@given(manifest=manifests(), data=st.data())
def test_a_manifest_with_a_value_of_another_type_is_refused(manifest: Manifest, data: st.DataObject) -> None:
    """Reading is strict for every key: a value with another JSON type is always refused."""
    values: dict[str, Any] = json.loads(json.dumps(manifest.to_dict()))
    key = data.draw(st.sampled_from(sorted(values)))
    other = data.draw(JSON.filter(lambda value: type(value) is not type(values[key])))
    with pytest.raises(BundleError):
        parse_manifest(json.dumps(values | {key: other}))


def test_a_manifest_of_a_classifier_reads_as_before() -> None:
    """Older versions of edgekit refuse unknown keys, so a bundle that they can run must not have the new ones."""
    values = tiny_manifest().to_dict()
    assert not {"task", "activation", "thresholds", "threads"} & values.keys()
    values = tiny_manifest(task="multi-label", activation="sigmoid").to_dict()
    assert (values["task"], values["activation"], "thresholds" in values) == ("multi-label", "sigmoid", False)
