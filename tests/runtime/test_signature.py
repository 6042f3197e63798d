"""Signatures: a bundle that was signed is opened, and one that differs from it in anything is refused."""

import base64
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import edgekit
from edgekit.cli.main import main
from edgekit.errors import BundleError, MissingExtraError, SignatureError, UsageError
from edgekit.runtime.bundle import MANIFEST, Golden, read_bundle, with_manifest, write_bundle
from edgekit.runtime.signature import (
    SIGNATURE,
    read_private_key,
    read_public_key,
    read_signed_bundle,
    seal,
    sign_bundle,
)
from tests.helpers.environments import new_environment, run
from tests.helpers.signing import KeyPair, new_keys
from tests.helpers.tiny import CLASSES, SIDE, MakeBundle, tiny_labels, tiny_manifest

GOLDEN = Golden(np.zeros((1, SIDE, SIDE, 3), np.uint8), np.zeros((1, CLASSES), np.float32), 0.1)


def make(folder: Path, model: bytes = b"pretend model") -> Path:
    """A bundle with this model, which no runtime could open."""
    source = folder.with_suffix(".source")
    source.write_bytes(model)
    return write_bundle(folder, {"model.onnx": source}, tiny_manifest(), tiny_labels(), GOLDEN).path


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return new_keys(tmp_path)


@pytest.fixture
def signed(tmp_path: Path, keys: KeyPair) -> Path:
    folder = make(tmp_path / "bundle")
    sign_bundle(folder, keys.private)
    return folder


def change_signature(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = bundle / SIGNATURE
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_model(bundle: Path) -> None:
    flip(bundle / "model.onnx")


def remove_file(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()


def remove_signature(bundle: Path) -> None:
    (bundle / SIGNATURE).unlink()


def add_file(bundle: Path) -> None:
    (bundle / "model.data").write_text("more weights")


def add_folder(bundle: Path) -> None:
    (bundle / ".git").mkdir()


def new_manifest(bundle: Path) -> None:
    """Another model with a manifest that fits it, below the old signature."""
    signature = (bundle / SIGNATURE).read_text()
    make(bundle, b"another model")
    (bundle / SIGNATURE).write_text(signature)


def reformat_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).write_text(json.dumps(json.loads((bundle / MANIFEST).read_text())))


def sign_with_another_key(bundle: Path) -> None:
    sign_bundle(bundle, new_keys(bundle.parent, "other").private)


def claim_the_key(bundle: Path) -> None:
    """Another key's signature that names the trusted key."""
    hint = json.loads((bundle / SIGNATURE).read_text())["verificationMaterial"]
    sign_with_another_key(bundle)
    change_signature(bundle, lambda values: values.update(verificationMaterial=hint))


def change_statement(bundle: Path) -> None:
    """A statement that fits another model, with the old statement's signature."""
    new_manifest(bundle)
    old = json.loads((bundle / SIGNATURE).read_text())
    sign_with_another_key(bundle)
    payload = json.loads((bundle / SIGNATURE).read_text())["dsseEnvelope"]["payload"]
    old["dsseEnvelope"]["payload"] = payload
    (bundle / SIGNATURE).write_text(json.dumps(old))


def no_signatures(bundle: Path) -> None:
    change_signature(bundle, lambda values: values["dsseEnvelope"].update(signatures=[]))


def another_type(bundle: Path) -> None:
    change_signature(bundle, lambda values: values["dsseEnvelope"].update(payloadType="text/plain"))


def no_key(bundle: Path) -> None:
    change_signature(bundle, lambda values: values.update(verificationMaterial={"certificate": []}))


def no_json(bundle: Path) -> None:
    (bundle / SIGNATURE).write_text("[" * 100_000)


def link_signature(bundle: Path) -> None:
    (bundle / SIGNATURE).rename(bundle.parent / "elsewhere")
    (bundle / SIGNATURE).symlink_to("../elsewhere")


ATTACKS = (
    flip_model, remove_file, remove_signature, add_file, add_folder, new_manifest, reformat_manifest,
    sign_with_another_key, claim_the_key, change_statement, no_signatures, another_type, no_key, no_json,
    link_signature,
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bundle_that_differs_from_the_signed_one_is_refused(
    attack: Callable[[Path], None], signed: Path, keys: KeyPair, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(signed), "--key", str(keys.public)]) == 0
    attack(signed)
    capfd.readouterr()
    assert main(["verify", str(signed), "--key", str(keys.public)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert str(signed) in err
    with pytest.raises(BundleError):
        edgekit.load(signed, trust=keys.public)


@pytest.mark.parametrize("changes", [{"hash_type": "blake2b"}, {"method": "shards"}])
def test_a_statement_about_other_hashes_is_refused(signed: Path, keys: KeyPair, changes: dict[str, str]) -> None:
    statement = statement_of(signed)
    statement["predicate"]["serialization"].update(changes)
    reseal(signed, statement, keys)
    with pytest.raises(SignatureError):
        read_signed_bundle(signed, read_public_key(keys.public))


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", MANIFEST])
def test_a_statement_must_name_every_file(signed: Path, keys: KeyPair, name: str) -> None:
    statement = statement_of(signed)
    resources = statement["predicate"]["resources"]
    statement["predicate"]["resources"] = [each for each in resources if each["name"] != name]
    assert len(statement["predicate"]["resources"]) == len(resources) - 1
    reseal(signed, statement, keys)
    with pytest.raises(SignatureError) as raised:
        read_signed_bundle(signed, read_public_key(keys.public))
    assert name in raised.value.problem


def statement_of(bundle: Path) -> Any:
    return json.loads(base64.b64decode(json.loads((bundle / SIGNATURE).read_text())["dsseEnvelope"]["payload"]))


def reseal(bundle: Path, statement: object, keys: KeyPair) -> None:
    (bundle / SIGNATURE).write_text(seal(json.dumps(statement).encode(), read_private_key(keys.private)))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda each: str(each.name))
def test_the_sdk_opens_a_bundle_that_the_trusted_key_signed(
    curve: ec.EllipticCurve, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    keys, bundle = new_keys(tmp_path, curve=curve), make_bundle("onnx", dtype="uint8")
    assert main(["sign", str(bundle), "--key", str(keys.private)]) == 0
    assert main(["verify", str(bundle), "--key", str(keys.public)]) == 0
    with edgekit.load(bundle, verify=True, trust=str(keys.public)) as session:
        assert session.bundle == read_bundle(bundle)
    os.symlink(bundle, tmp_path / "current")
    with edgekit.load(tmp_path / "current", trust=keys.public) as session:
        assert session.bundle == read_bundle(bundle)
    assert main(["inspect", str(bundle)]) == 0  # which doesn't look at the signature


def test_a_new_bundle_has_no_old_signature(signed: Path) -> None:
    make(signed, b"another model")
    assert not (signed / SIGNATURE).exists()


def test_another_number_of_threads_changes_only_the_manifest(signed: Path, keys: KeyPair) -> None:
    before = read_bundle(signed)
    assert with_manifest(before, threads=None) is before
    changed = with_manifest(before, threads=2)
    assert changed == read_bundle(signed)
    assert (changed.manifest.threads, changed.manifest.files) == (2, before.manifest.files)
    with pytest.raises(SignatureError, match="is not the one that was signed"):
        read_signed_bundle(signed, read_public_key(keys.public))
    sign_bundle(signed, keys.private)
    assert read_signed_bundle(signed, read_public_key(keys.public)) == changed
    assert with_manifest(changed, threads=None).sha256 == before.sha256, (
        "older versions read a bundle without the number"
    )


def test_only_whole_bundles_are_signed(signed: Path, keys: KeyPair, tmp_path: Path) -> None:
    before = (signed / SIGNATURE).read_bytes()
    flip_model(signed)
    with pytest.raises(BundleError):
        sign_bundle(signed, keys.private)
    assert (signed / SIGNATURE).read_bytes() == before
    clean = make(tmp_path / "clean")
    add_file(clean)
    with pytest.raises(SignatureError):
        sign_bundle(clean, keys.private)
    assert not (clean / SIGNATURE).exists()


def test_keys_of_other_kinds_are_refused(signed: Path, keys: KeyPair, tmp_path: Path) -> None:
    other = new_keys(tmp_path, "other", ec.SECP256K1())
    for path in (keys.private, other.public, signed / MANIFEST, tmp_path / "gone"):
        with pytest.raises(UsageError):
            read_public_key(path)
    locked = tmp_path / "locked.pem"
    lock = ("openssl", "ec", "-in", keys.private, "-aes128", "-passout", "pass:x", "-out", locked)
    assert run(*lock, cwd=tmp_path).returncode == 0
    for path in (keys.public, other.private, locked, tmp_path / "gone"):
        with pytest.raises(UsageError):
            read_private_key(path)


def test_without_cryptography_the_extra_is_named(signed: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    with pytest.raises(MissingExtraError) as raised:
        edgekit.load(signed, trust=keys.public)
    assert "[trust]" in raised.value.fix


@pytest.mark.slow
def test_model_signing_and_edgekit_accept_each_others_signatures(signed: Path, keys: KeyPair, tmp_path: Path) -> None:
    # model-signing 1.1.1 imports pyOpenSSL without asking for it
    python = new_environment(tmp_path / "env", "model-signing>=1.1.1,<2", "pyopenssl")
    program = python.with_name("model_signing")
    arguments: list[str | Path] = ["key", signed, "--signature", signed / SIGNATURE]
    done = run(program, "verify", *arguments, "--public_key", keys.public, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    shutil.copy(signed / SIGNATURE, tmp_path / "ours")
    done = run(program, "sign", *arguments, "--private_key", keys.private, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (signed / SIGNATURE).read_bytes() != (tmp_path / "ours").read_bytes()
    read_signed_bundle(signed, read_public_key(keys.public))

    flip_model(signed)
    shutil.copy(tmp_path / "ours", signed / SIGNATURE)
    done = run(program, "verify", *arguments, "--public_key", keys.public, cwd=tmp_path)
    assert done.returncode != 0
