"""The kinds of step, by the name that recipes give them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from builder.recipe.steps.base import Step
from builder.recipe.steps.cmdline_txt import CmdlineTxtStep
from builder.recipe.steps.config_txt import ConfigTxtStep
from builder.recipe.steps.download import DownloadStep
from builder.recipe.steps.files import FilesStep
from builder.recipe.steps.overlay import OverlayStep
from builder.recipe.steps.packages import PackagesStep
from builder.recipe.steps.run import RunStep
from builder.recipe.steps.systemd import SystemdStep
from builder.recipe.steps.template import TemplateStep
from builder.recipe.steps.user import UserStep

STEP_KINDS: Mapping[str, type[Step]] = MappingProxyType(
    {
        "packages": PackagesStep,
        "files": FilesStep,
        "overlay": OverlayStep,
        "template": TemplateStep,
        "run": RunStep,
        "systemd": SystemdStep,
        "user": UserStep,
        "download": DownloadStep,
        "config.txt": ConfigTxtStep,
        "cmdline.txt": CmdlineTxtStep,
    }
)
