"""Recipes: how to calibrate a family of models, read from calibration/*.toml; and what `edgekit targets` lists.

`--recipe` takes the name of a shipped recipe or the path of a TOML file. A new file in calibration/ is a new recipe.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeAlias

from edgekit.config.runtimes import (
    RUNTIMES,
    DeviceClass,
    LayerKind,
    Precision,
    Scheme,
    build,
    read_table,
    shipped_names,
    unknown,
)
from edgekit.errors import ProfileError, as_sentences, did_you_mean

Estimator: TypeAlias = Literal["histogram", "minmax", "mse"]
"""Estimators of activation ranges."""


@dataclass(frozen=True)
class TargetRecipe:
    """The part of a recipe for one runtime: exact rewrites, placement of Q/DQ, and overrides of the recipe's keys.

    Its fields are the keys of the tables [openvino], [onnx] and [tflite].
    """

    activations: Literal["uint8", "int8"]
    """Integer type of quantized activations."""
    rewrites: tuple[str, ...] = ()
    """Names of the rewrites to apply to the graph. Their order doesn't matter.

    Under `on`, `{ add = [...], drop = [...] }` says what differs from the runtime's list.
    """
    quantize_outputs: bool = False
    """Whether to quantize the outputs of dense layers (linear layers and convolutions) as well as their inputs."""
    quantize_depthwise: bool = False
    """Whether to quantize depthwise convolutions too."""
    int8_rewrites: tuple[str, ...] | None = None
    """The value of `rewrites` for INT8 bundles; without the key, they get the same rewrites as float bundles.

    `{ add = [...], drop = [...] }` says what differs from `rewrites` of the same table, `{}` that nothing does. A table
    under `on` without this key takes the runtime's value, so that its `add` and `drop` extend the `rewrites` there.
    """
    quantize_residuals: bool = False
    """Whether residual sums and max pooling that follow a quantized convolution go from INT8 to INT8.

    Sums after linear layers stay in float: the values that transformers add up are too unequal for one INT8 range.
    """
    lowerings: tuple[str, ...] = ()
    """Names of lowerings of this runtime to apply to INT8 bundles. Their order doesn't matter."""
    kinds: Mapping[str, LayerKind] = field(default_factory=dict)
    """Kinds of layers in INT8 bundles, for fnmatch patterns of their names, such as `{ "*.fc2" = "dynamic" }`.

    "static" has one range of its input for all images, "dynamic" one for each row, taken at run time, and "float" no
    integers. The first pattern that matches a layer decides. Layers that match none are "static", but a repair may make
    them "dynamic". OpenVINO and LiteRT have "dynamic" linear layers on x86 processors with VNNI; everywhere else they
    are static.
    """
    limit_weight_pairs: bool = True
    """Whether to limit weights so that no pair of them saturates on x86 processors without VNNI.

    The INT8 model then computes the same on every x86 processor. The key has no effect on Arm, nor in a runtime whose
    kernels never add products in 16 bits.
    """
    estimator: Estimator | None = None
    """The recipe's `estimator` for this runtime; without the key, the recipe's value applies."""
    smooth_quant: bool | None = None
    """The recipe's `smooth_quant` for this runtime; without the key, the recipe's value applies."""
    bias_correction: Literal["none", "fast", "accurate"] | None = None
    """The recipe's `bias_correction` for this runtime; without the key, the recipe's value applies."""
    weight_rounding: Literal["nearest", "gptq", "fit"] | None = None
    """The recipe's `weight_rounding` for this runtime; without the key, the recipe's value applies."""
    float_layers: tuple[str, ...] | None = None
    """The recipe's `float_layers` for this runtime; without the key, the recipe's value applies."""
    on: Mapping[str, "TargetRecipe"] = field(default_factory=dict, metadata={"variants": True})
    """Overrides for some device classes: a table for each fnmatch pattern of class names, such as "raspberry-pi-*".

    Such a table, for example [tflite.on."raspberry-pi-*"], replaces single keys of the runtime's table. If several
    patterns match a class, the first one in the file applies.
    """

    def rewrites_of(self, precision: Precision) -> tuple[str, ...]:
        """Names of the rewrites for the graph of a float or an INT8 bundle."""
        return self.rewrites if precision == "float" or self.int8_rewrites is None else self.int8_rewrites

    def kind_of(self, layer: str) -> LayerKind:
        """The kind that the table states for a layer of this name."""
        if any(fnmatchcase(layer, pattern) for pattern in self.float_layers or ()):
            return "float"
        return next((kind for pattern, kind in self.kinds.items() if fnmatchcase(layer, pattern)), "static")

    def pattern_of(self, device_class: str) -> str | None:
        """The pattern under `on` whose table applies to a device class; None if the runtime's own does."""
        return next((pattern for pattern in self.on if fnmatchcase(device_class, pattern)), None)


PLAIN = TargetRecipe(activations="int8")
"""The settings for a runtime that a recipe has no table for."""


@dataclass(frozen=True)
class Recipe:
    """The calibration of a family of models.

    Its fields are the keys of a TOML file in calibration/, but for `targets`, which holds the file's tables.
    """

    name: str
    """Name of the recipe, which reports show."""
    description: str
    """One sentence about the family and what becomes INT8, which `edgekit targets` prints."""
    targets: Mapping[str, TargetRecipe] = field(metadata={"tables": RUNTIMES, "default": PLAIN})
    """Settings for each runtime: the file's tables [openvino], [onnx] and [tflite].

    A runtime without a table gets no rewrites and INT8 inputs of dense layers.
    """
    architectures: tuple[str, ...] = ()
    """fnmatch patterns of the model names that use this recipe by default."""
    optional_rewrites: tuple[str, ...] = ()
    """Rewrites that don't apply to every network of the family (named as in `rewrites`).

    edgekit warns of any other rewrite that finds nothing to change.
    """
    scheme: Scheme = "w8a8"
    """INT8 scheme: "w8a8" quantizes weights and activations, "w8" quantizes only the weights and computes in float."""
    num_calibration_samples: int = 128
    """Number of images to calibrate on."""
    estimator: Estimator = "histogram"
    """Estimator of activation ranges.

    "minmax" covers all values; "mse" minimizes the weighted mean square error of quantization; "histogram" is NNCF's.
    """
    smooth_quant: bool = False
    """Whether to apply NNCF's SmoothQuant, which adds operations to the graph."""
    bias_correction: Literal["none", "fast", "accurate"] = "none"
    """NNCF's bias correction: "none", "fast" or "accurate". `weight_rounding = "fit"` corrects biases without it."""
    equalization: float | None = None
    """Share of a channel's range to move into the following weights, SmoothQuant's alpha (at most 1).

    edgekit equalizes only where that adds no operation. Without the key, it doesn't equalize.
    """
    weight_rounding: Literal["nearest", "gptq", "fit"] = "nearest"
    """Rounding of weights: "nearest"; "gptq", which lets later weights compensate an earlier rounding error; or "fit".

    "fit" also fits each layer's weights and bias so that they compensate the errors of the layers before it.
    """
    float_layers: tuple[str, ...] = ()
    """fnmatch patterns of the names of layers that stay in float."""

    def for_target(self, target: str) -> "Recipe":
        """The recipe for one target, with the overrides of the target's table applied."""
        row = self.targets[target]
        overrides = {key: getattr(row, key) for key in OWN if getattr(row, key) is not None}
        none: dict[str, Any] = dict.fromkeys(OWN)
        plain = replace(row, **none)
        if self.scheme == "w8":  # these settings concern INT8 activations, which w8 does not have
            overrides |= {"smooth_quant": False, "bias_correction": "none", "equalization": None}
        return replace(self, targets={**self.targets, target: plain}, **overrides)

    def for_class(self, device_class: DeviceClass) -> "Recipe":
        """The recipe for one device class, with the overrides under `on` applied to each target's table.

        It has no dynamic layers for a class whose processors aren't x86 with VNNI.
        """
        patterns = {name: row.pattern_of(device_class.name) for name, row in self.targets.items()}
        rows = {
            name: replace(row, on={}) if (pattern := patterns[name]) is None else row.on[pattern]
            for name, row in self.targets.items()
        }
        chosen = replace(self, targets=rows)
        return chosen.static() if device_class.is_arm or not device_class.dot_product else chosen

    def static(self) -> "Recipe":
        """The recipe with static layers in place of dynamic ones, which a repair doesn't add either.

        Their weights are rounded as other static ones.
        """
        rows = {}
        for name, row in self.targets.items():
            kinds = {key: "static" if kind == "dynamic" else kind for key, kind in row.kinds.items()}
            kinds.setdefault("*", "static")
            rounding = None if "dynamic" in row.kinds.values() else row.weight_rounding
            rows[name] = replace(row, kinds=kinds, weight_rounding=rounding)
        return replace(self, targets=rows)

    def rounding_to_nearest(self) -> "Recipe":
        """The recipe without anything that changes weights before they are rounded to nearest."""
        rows = {
            name: replace(row, limit_weight_pairs=False, weight_rounding=None) for name, row in self.targets.items()
        }
        return replace(self, weight_rounding="nearest", targets=rows)

    def sharing_calibration(self, target: str) -> "Recipe | None":
        """This recipe with only the tables of the runtimes that can share one calibration with a target.

        They are without `float_layers` of their own and `kinds`: the calibration covers these layers too, and stays the
        same when a repair gives layers of one runtime other kinds. None if there is no other runtime, or if a
        setting makes NNCF change the graph.
        """
        if self.scheme != "w8a8" or self.bias_correction != "none" or self.smooth_quant:
            return None
        alike = {
            name: replace(row, float_layers=None, kinds={}, on={})
            for name, row in self.targets.items()
            if all(getattr(row, key) is None for key in OWN if key != "float_layers")
        }
        return replace(self, targets=alike) if target in alike and len(alike) > 1 else None

    def with_kinds(self, target: str, kinds: Mapping[str, LayerKind]) -> "Recipe":
        """The recipe with these kinds of single layers of one target. Layers that aren't named keep theirs.

        The overrides under `on` are gone, because the choice is for one device class.
        """
        row = self.targets[target]
        in_float = [_literally(name) for name, kind in kinds.items() if kind == "float"]
        named = {_literally(name): kind for name, kind in kinds.items() if kind != "float"}
        row = replace(
            row,
            on={},
            float_layers=(*self.for_target(target).float_layers, *in_float),
            kinds={**named, **row.kinds, **named},
        )
        return replace(self, targets={**self.targets, target: row})

    def table(self) -> dict[str, Any]:
        """The table of a TOML file from which `load` reads the same recipe."""
        table = asdict(self)
        return _without_defaults(table.pop("targets") | table)

    @staticmethod
    def parse(table: Mapping[str, Any], where: str, rewrites: Collection[str] | None = None) -> "Recipe":
        """Check a table as `load` does and build its recipe. Messages name `where` as the table's source."""
        full = dict(table)
        for key in full.keys() & RUNTIMES:
            if isinstance(full[key], Mapping):
                full[key] = _with_full_lists(full[key], f"{where}: [{key}]")
        recipe = build(Recipe, full, where)
        for name, target in recipe.targets.items():
            for row in (target, *target.on.values()):
                _check_names(row.lowerings, RUNTIMES[name].lowerings, "lowering", f"{where}: [{name}] lowerings")
                for key in ("rewrites", "int8_rewrites"):
                    _check_names(getattr(row, key) or (), rewrites, "pass", f"{where}: [{name}] {key}")
        _check_names(recipe.optional_rewrites, rewrites, "pass", f"{where}: optional_rewrites")
        if recipe.equalization is not None and recipe.equalization > 1:
            raise ProfileError(f"{where}: equalization is {recipe.equalization}", valid="a number above 0, up to 1")
        return recipe

    @staticmethod
    def load(name_or_path: str | Path, rewrites: Collection[str] | None = None) -> "Recipe":
        """Load the recipe with this name or in this file. `rewrites` are the valid pass names; None accepts any.

        Raises ProfileError if it doesn't exist or isn't valid.
        """
        where, table = read_table("calibration", name_or_path, "recipe")
        return Recipe.parse(table, where, rewrites)

    @staticmethod
    def for_model(model_name: str, rewrites: Collection[str] | None = None) -> "Recipe":
        """The shipped recipe with the longest pattern that matches this model's name."""
        name = model_name.rsplit("/", 1)[-1].lower().removeprefix("torchvision:")
        recipes = [Recipe.load(recipe, rewrites) for recipe in list_recipes()]
        fits = [(len(pattern), r) for r in recipes for pattern in r.architectures if fnmatchcase(name, pattern)]
        return max(fits, key=lambda fit: fit[0])[1]


def _literally(name: str) -> str:
    """An fnmatch pattern that matches only this name."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


OWN = ("estimator", "smooth_quant", "bias_correction", "weight_rounding", "float_layers")
"""Keys of the recipe that a target's table may override."""


def list_recipes() -> tuple[str, ...]:
    """Names of the shipped recipes, sorted."""
    return shipped_names("calibration")


def _without_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table without keys that are None, which TOML can't express, and without empty tables."""
    values = {key: _without_defaults(value) if isinstance(value, Mapping) else value for key, value in table.items()}
    return {key: value for key, value in values.items() if value is not None and value != {}}


@dataclass(frozen=True)
class ListChange:
    """The difference of a list of rewrites from the list that it extends."""

    add: tuple[str, ...] = ()
    """Rewrites that the other list doesn't have."""
    drop: tuple[str, ...] = ()
    """Rewrites that only the other list has."""


def _with_full_lists(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A runtime's table, as TOML holds it, with full lists in place of tables with `add` and `drop`.

    `int8_rewrites` extends `rewrites`. Under `on`, `rewrites` extends the runtime's `rewrites`, and the runtime's
    `int8_rewrites` applies unless the variant has its own. Values of other types stay for the reader to refuse. Raises
    ProfileError for a change that doesn't fit its list.
    """
    rewrites = table.get("rewrites")
    if isinstance(rewrites, Mapping):
        raise ProfileError(
            f"{where}: rewrites has add and drop, but extends no list",
            valid="a list of strings; add and drop belong in int8_rewrites, or in a table under `on`",
        )
    full = {**table, **_int8_list(table, rewrites, where)}
    variants = table.get("on")
    if isinstance(variants, Mapping):
        full["on"] = {
            pattern: _variant(table, keys, f"{where}.on.{pattern}") if isinstance(keys, Mapping) else keys
            for pattern, keys in variants.items()
        }
    return full


def _variant(table: Mapping[str, Any], keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    full = {**keys}
    rewrites = table.get("rewrites")
    if "rewrites" in keys:
        full["rewrites"] = rewrites = _changed(rewrites, keys["rewrites"], f"{where}: rewrites")
    return {**full, **_int8_list({**table, **keys}, rewrites, where)}


def _int8_list(table: Mapping[str, Any], rewrites: Any, where: str) -> dict[str, Any]:
    if "int8_rewrites" not in table:
        return {}
    base = [] if rewrites is None else rewrites
    return {"int8_rewrites": _changed(base, table["int8_rewrites"], f"{where}: int8_rewrites")}


def _changed(base: Any, value: Any, where: str) -> Any:
    """`base` with a change applied; a value that is no change replaces the list."""
    if not isinstance(value, Mapping) or not isinstance(base, list):
        return value
    change, names = build(ListChange, value, where), list(base)
    for name in change.drop:
        if name not in names:
            fix = as_sentences(did_you_mean(name, names), "Remove it from `drop`")
            raise ProfileError(f"{where} drops '{name}', which isn't in the list", valid=", ".join(names), fix=fix)
        names.remove(name)
    for name in change.add:
        if name in names:
            raise ProfileError(f"{where} adds '{name}', which is in the list already", fix="Remove it from `add`")
        names.append(name)
    return names


def _check_names(names: Iterable[str], valid: Collection[str] | None, kind: str, where: str) -> None:
    for name in names:
        if valid is not None and name not in valid:
            raise unknown(name, valid, kind, where)


@dataclass(frozen=True)
class ListedRuntime:
    """A runtime that bundles can be compiled for."""

    name: str
    """Name for `--target`."""
    runtime: str
    """Name that the runtime's own project uses."""


@dataclass(frozen=True)
class Described:
    """A device class or a recipe."""

    name: str
    """Name for `--device-class` or `--recipe`."""
    description: str
    """One sentence about the device class or recipe."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The document of `edgekit targets`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    targets: tuple[ListedRuntime, ...]
    """Registered runtimes."""
    device_classes: tuple[Described, ...]
    """Shipped device classes, sorted by name."""
    recipes: tuple[Described, ...]
    """Shipped recipes, sorted by name."""

    def page(self) -> Iterator[str]:
        """A line for each."""
        for target in self.targets:
            yield f"target        {target.name}: {target.runtime}"
        for label, entries in (("device class", self.device_classes), ("recipe", self.recipes)):
            yield from (f"{label:<12}  {entry.name}: {entry.description}" for entry in entries)


def list_catalogue() -> Catalogue:
    """List every registered runtime and every shipped device class and recipe."""
    classes = (DeviceClass.load(name) for name in DeviceClass.listed())
    recipes = (Recipe.load(name) for name in list_recipes())
    return Catalogue(
        targets=tuple(ListedRuntime(runtime.name, runtime.title) for runtime in RUNTIMES.values()),
        device_classes=tuple(Described(row.name, row.description) for row in classes),
        recipes=tuple(Described(row.name, row.description) for row in recipes),
    )
