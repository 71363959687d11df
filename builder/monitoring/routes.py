"""Alertmanager's configuration: whom an alert reaches, how alerts are put together, and which one holds back which.

An inhibitor must be there before its targets: the times of the alerts are in that order (`presence`), and Alertmanager
waits for longer than an interval of the rules before it sends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.monitoring.alert import Alert

if TYPE_CHECKING:
    from builder.inventory.schema import Email, Monitoring, Webhook

OF_NODES = ("LoginDown", "NodeDown", "NodeNeverSeen", "NodeFlapping", "NfsNotAnswering", "ClockWrong")
_WAIT = "45s"  # more than an interval of the presence rules


def routes(monitoring: Monitoring, alerts: tuple[Alert, ...]) -> dict[str, object]:
    """Return Alertmanager's configuration (prometheus.io/docs/alerting/latest/configuration)."""
    deadman = (
        [{"matchers": ['alertname="Watchdog"'], "receiver": "deadman", **_beating()}] if monitoring.deadman else []
    )
    return {
        "route": {
            "receiver": "tickets",
            "group_by": ["alertname", "site"],
            "group_wait": _WAIT,
            "group_interval": "5m",
            "repeat_interval": "12h",
            "routes": [
                *deadman,
                {"matchers": ['severity="none"'], "receiver": "nobody"},
                {"matchers": ['severity="page"'], "receiver": "pages", "repeat_interval": "1h"},
                {"matchers": ['severity="info"'], "receiver": "tickets", "repeat_interval": "3d"},
            ],
        },
        "inhibit_rules": _inhibitions(alerts),
        "receivers": _receivers(monitoring),
    }


def _beating() -> dict[str, str]:
    return {"group_wait": "0s", "group_interval": "1m", "repeat_interval": "5m"}


def _inhibitions(alerts: tuple[Alert, ...]) -> list[dict[str, object]]:
    """Return what holds back what, the widest first. Flapping is no source: a node that flaps can die."""
    follow = [alert.name for alert in alerts if alert.severity not in {"none", "page"} and alert.name not in OF_NODES]
    chain: tuple[tuple[str, list[str], list[str]], ...] = (
        ("NothingHeard", ["SiteDown", *OF_NODES], []),
        ("SiteDown", list(OF_NODES), ["site"]),
        ("LoginDown", ["NodeDown", "NodeFlapping", "NfsNotAnswering"], ["site"]),
        ("Maintenance", [*OF_NODES, "RootReadOnly", *follow], ["site", "node"]),
        ("NodeDown", ["NodeFlapping", "NfsNotAnswering", "ClockWrong", *follow], ["site", "node"]),
    )
    return [
        {
            "source_matchers": [f'alertname="{source}"'],
            "target_matchers": [f'alertname=~"{"|".join(targets)}"'],
            **({"equal": equal} if equal else {}),
        }
        for source, targets, equal in chain
    ]


def _receivers(monitoring: Monitoring) -> list[dict[str, object]]:
    mail = [_email(monitoring.email)] if monitoring.email else []
    hook = [_webhook(monitoring.webhook)] if monitoring.webhook else []
    late = {"email_configs": mail} if mail else {"webhook_configs": hook}
    at_once = {key: configs for key, configs in (("webhook_configs", hook), ("email_configs", mail)) if configs}
    receivers: list[dict[str, object]] = [
        {"name": "nobody"},
        {"name": "tickets", **late},
        {"name": "pages", **at_once},
    ]
    if monitoring.deadman:
        beat = {**_webhook(monitoring.deadman), "send_resolved": False}
        receivers.append({"name": "deadman", "webhook_configs": [beat]})
    return receivers


def _email(email: Email) -> dict[str, object]:
    login = {"auth_username": email.username, "auth_password_file": email.password_file} if email.username else {}
    return {
        "to": ", ".join(email.to),
        "from": email.sender,
        "smarthost": email.smarthost,
        **login,
        "require_tls": email.tls,
        "send_resolved": True,
    }


def _webhook(hook: Webhook) -> dict[str, object]:
    where = {"url": hook.url} if hook.url else {"url_file": hook.url_file}
    token = {"authorization": {"credentials_file": hook.token_file}}
    return {**where, **({"http_config": token} if hook.token_file else {}), "send_resolved": True}
