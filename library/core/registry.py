"""What has more than one implementation is found by name here.

A name is one of: a name registered with the decorator, a built-in name (imported on first use), the name of an
installed entry point, or a dotted path such as `my_package.my_module` or `my_package.my_module.MyClass`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from library.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

T = TypeVar("T")


class Registry:
    """Names of one kind of plugin, resolved lazily.

    Args:
        kind: what is registered, for messages ("network").
        builtin: name -> "module:attribute"; the module is imported when the name is first asked for.
        group: entry-point group through which installed packages add names.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], group: str) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)
        self._registered: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a class or function under `name`."""

        def add(plugin: T) -> T:
            self._registered[name] = plugin
            return plugin

        return add

    def names(self) -> list[str]:
        """Every name that can be asked for without a dotted path."""
        return sorted(self._registered.keys() | self._builtin.keys() | {entry.name for entry in self._installed()})

    def get(self, name: str) -> Any:
        """The plugin of that name; a module is returned as it is when the dotted path names one.

        Raises:
            UserError: no such name, or importing it failed.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            with _told_of(module):
                return getattr(import_module(module), attribute)
        for entry in self._installed():
            if entry.name == name:
                with _told_of(f"{entry.value} ({self.kind} {name} of an installed package)", Exception):
                    return entry.load()
        return self._from_path(name)

    def _installed(self) -> EntryPoints:
        """What installed packages offer. Imported late: it costs more than all the rest of `--help`."""
        from importlib.metadata import entry_points

        return entry_points(group=self.group)

    def _from_path(self, path: str) -> Any:
        found = _import(path)
        if found is None and "." not in path:
            raise UserError(
                f"unknown {self.kind} '{path}'.{did_you_mean(path, self.names())} "
                f"Known: {', '.join(self.names())}; or give the path of your own module or class."
            )
        if found is None:
            module_path, _, attribute = path.rpartition(".")
            module = _import(module_path)
            if module is None or not hasattr(module, attribute):
                raise UserError(
                    f"{self.kind} '{path}' cannot be imported: no module '{path}', and no '{attribute}' in '{module_path}'."
                    f"{did_you_mean(path, self.names())} Is the package installed in this environment?"
                )
            found = getattr(module, attribute)
        return self._registered.get(path, found)


def _import(path: str) -> ModuleType | None:
    """The module, or None where it does not exist; an error inside it is the user's to see."""
    if not path or path.startswith("."):
        return None
    with _told_of(path):
        try:
            return import_module(path)
        except ModuleNotFoundError as error:
            if error.name and (path == error.name or path.startswith(error.name + ".")):
                return None
            raise


@contextmanager
def _told_of(what: str, failures: type[Exception] = ImportError) -> Iterator[None]:
    """Within the block a failure to import becomes a `UserError`.

    Args:
        failures: what counts as one. Of a module of the user's own, other errors are shown with where they came about.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"importing '{what}' failed: it needs the module '{error.name}', which is not installed."
        ) from error
    except failures as error:
        raise UserError(
            f"importing '{what}' failed: {type(error).__name__}: {error}. Do the installed versions of the packages fit together?"
        ) from error


NETWORKS = Registry(
    "network_module",
    {
        "networks.lora": "networks.lora:LoRA",
        "networks.lora_fa": "networks.lora_fa:LoRAFA",
        "networks.dylora": "networks.dylora:DyLoRA",
        "networks.pissa": "networks.pissa:PiSSA",
        "networks.t_lora": "networks.t_lora:TLoRA",
        "networks.dora": "networks.dora:DoRA",
        "networks.loha": "networks.loha:LoHa",
        "networks.lokr": "networks.lokr:LoKr",
        "networks.ia3": "networks.ia3:IA3",
        "networks.oft": "networks.oft:OFT",
        "networks.boft": "networks.boft:BOFT",
        "networks.hra": "networks.hra:HRA",
        "networks.peft.hira": "networks.peft:HIRA",
        "networks.peft.delora": "networks.peft:DELORA",
        "networks.peft.gralora": "networks.peft:GRALORA",
        "networks.peft.miss": "networks.peft:MISS",
        "networks.peft.waveft": "networks.peft:WAVEFT",
        "networks.peft.fourierft": "networks.peft:FOURIERFT",
    },
    "lora_dojo.networks",
)

OPTIMIZERS = Registry(
    "optimizer_type",
    {
        name: f"library.optim.catalogue:{function}"
        for name, function in {
            "AdamW": "adamw",
            "AdamW8bit": "adamw_8bit",
            "PagedAdamW": "paged_adamw",
            "PagedAdamW32bit": "paged_adamw_32bit",
            "PagedAdamW8bit": "paged_adamw_8bit",
            "Lion": "lion",
            "Lion8bit": "lion_8bit",
            "PagedLion8bit": "paged_lion_8bit",
            "SGDNesterov": "sgd_nesterov",
            "SGDNesterov8bit": "sgd_nesterov_8bit",
            "AdaFactor": "adafactor",
            "Prodigy": "prodigy",
            "DAdaptation": "dadapt_adam_preprint",
            "DAdaptAdamPreprint": "dadapt_adam_preprint",
            "DAdaptAdaGrad": "dadapt_adagrad",
            "DAdaptAdam": "dadapt_adam",
            "DAdaptAdan": "dadapt_adan",
            "DAdaptAdanIP": "dadapt_adan_ip",
            "DAdaptLion": "dadapt_lion",
            "DAdaptSGD": "dadapt_sgd",
            "RAdamScheduleFree": "radam_schedule_free",
            "AdamWScheduleFree": "adamw_schedule_free",
            "SGDScheduleFree": "sgd_schedule_free",
        }.items()
    },
    "lora_dojo.optimizers",
)

SCHEDULES = Registry(
    "lr_scheduler",
    {
        name: f"library.optim.schedules:{name}"
        for name in (
            "constant",
            "constant_with_warmup",
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "cosine_with_min_lr",
            "inverse_sqrt",
            "warmup_stable_decay",
            "piecewise_constant",
            "adafactor",
        )
    },
    "lora_dojo.schedules",
)

MODEL_FAMILIES = Registry(
    "model family",
    {"sd": "library.models.sd:StableDiffusion", "sdxl": "library.models.sdxl:StableDiffusionXL"},
    "lora_dojo.model_families",
)

LOSS_WEIGHTINGS = Registry(
    "loss weighting",
    {
        "min_snr": "library.diffusion.weighting:min_snr",
        "debiased": "library.diffusion.weighting:debiased",
        "v_pred_like": "library.diffusion.weighting:v_pred_like",
        "v_as_noise": "library.diffusion.weighting:v_as_noise",
    },
    "lora_dojo.loss_weightings",
)
