"""The kinds of step, by the name that recipes give them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from builder.steps.base import Step
from builder.steps.cmdline_txt import CmdlineTxtStep
from builder.steps.config_txt import ConfigTxtStep
from builder.steps.download import DownloadStep
from builder.steps.files import FilesStep
from builder.steps.overlay import OverlayStep
from builder.steps.packages import PackagesStep
from builder.steps.run import RunStep
from builder.steps.systemd import SystemdStep
from builder.steps.template import TemplateStep
from builder.steps.user import UserStep

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
