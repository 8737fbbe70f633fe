"""All commands, put together."""

from invmm_gate.cli import attest, compare, environment, metric, model, policy, probes, registry
from invmm_gate.cli.commands import app

for command, example in (
    (compare.compare, compare.COMPARE_EPILOG),
    (compare.bless, compare.BLESS_EPILOG),
    (attest.sign, attest.SIGN_EXAMPLE),
    (attest.verify, attest.VERIFY_EXAMPLE),
    (registry.register, registry.REGISTER_EXAMPLE),
    (environment.environment, environment.ENVIRONMENT_EXAMPLE),
):
    app.command(epilog=example)(command)

for group, name in (
    (probes.app, "probes"),
    (policy.app, "policy"),
    (metric.app, "metric"),
    (model.app, "model"),
    (attest.keys, "keys"),
    (attest.waivers_app, "waivers"),
    (attest.audit_log, "audit-log"),
    (registry.app, "registry"),
):
    app.add_typer(group, name=name)

__all__ = ["app"]
