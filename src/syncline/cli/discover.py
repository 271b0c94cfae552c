"""The command `discover`: the instances of a service, once or as they come and go."""

from __future__ import annotations

import sys

import click

from syncline.cli.common import Context, client_command, key_bytes, make_client
from syncline.cli.exits import EXIT_NOT_FOUND, Failure
from syncline.cli.output import json_text, print_json, print_line, shown
from syncline.client.coordination.registry import ServiceInstance

__all__ = ["discover"]


@click.command("discover", short_help="List the instances of a service.")
@client_command
@click.argument("service")
@click.option("--watch", is_flag=True, help="Go on: print what comes and goes.")
async def discover(context: Context, *, service: str, watch: bool) -> None:
    """Print the registered instances of a service, the oldest first, one a line: ADDRESS, then the metadata.

    Exit status 3 if there is none. With --watch it goes on until Ctrl-C and prints `+ ADDRESS`, `- ADDRESS` and
    `= ADDRESS` (changed). With --json it prints all instances as one line, again at each change.
    """
    name = key_bytes(service)
    async with make_client(context) as client:
        if not watch:
            found = await client.discover(name)
            if context.as_json:
                print_json(_json(found))
            for instance in () if context.as_json else found:
                print_line(_line(instance))
            if not found:
                text = f"the service {service} has no instance"
                raise Failure(text, EXIT_NOT_FOUND, code="not_found", as_json=context.as_json)
            return
        async with client.services(name) as services:
            before: dict[str, ServiceInstance] = {}
            while True:
                if context.as_json:
                    print_line(json_text(_json(services.instances)))
                else:
                    before = _print_changes(before, services.instances)
                sys.stdout.flush()
                await services.changed()


def _print_changes(
    before: dict[str, ServiceInstance], found: tuple[ServiceInstance, ...]
) -> dict[str, ServiceInstance]:
    now = {instance.id: instance for instance in found}
    for gone in before.keys() - now.keys():
        print_line(f"- {_line(before[gone])}")
    for name, instance in now.items():
        if name not in before:
            print_line(f"+ {_line(instance)}")
        elif before[name] != instance:
            print_line(f"= {_line(instance)}")
    return now


def _line(instance: ServiceInstance) -> str:
    meta = [f"{shown(name.encode())}={shown(text.encode())}" for name, text in sorted(instance.meta.items())]
    return "\t".join([shown(instance.address.encode()), *meta])


def _json(found: tuple[ServiceInstance, ...]) -> dict[str, object]:
    return {
        "instances": [
            {"id": one.id, "address": one.address, "meta": one.meta, "created": one.created, "revision": one.revision}
            for one in found
        ]
    }
