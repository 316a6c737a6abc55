"""What a load run sends: a scenario is one kind of request at several levels of load, each measured several times.

On a command line: `--scenario "long:clients=16,input=8192:8192,output=128"`; lists are parted by slashes, as in
`clients=1/8/64` or `rates=4/8`. In a file (`--scenarios FILE.json`): a list of objects with the same names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TUPLES = {"clients": int, "rates": float, "input": int}
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of request. Lengths are tokens (for chat: words)."""

    name: str = "standard"
    clients: tuple[int, ...] = ()
    """Closed loop: each client sends its next request when its last one ended."""
    rates: tuple[float, ...] = ()
    """Open loop: requests a second at random (Poisson) times, whatever the server does."""
    input: tuple[int, int] = (128, 512)
    """Shortest and longest prompt, the shared prefix not counted."""
    output: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    shared_prefix: int = 0
    """Tokens that all prompts of a round begin with; another round has another prefix."""
    endpoint: str = "completions"
    per_client: float = 2.0
    """Requests of each client and round."""
    min_requests: int = 4
    seconds: float = 10.0
    """Open loop: how long requests arrive."""
    rounds: int = 1
    """Times that each level is measured, with fresh prompts."""

    @property
    def loads(self) -> list[tuple[int, float]]:
        """(clients, 0) of each closed level, then (0, rate) of each open one."""
        return [(clients, 0.0) for clients in self.clients] + [(0, rate) for rate in self.rates]

    def requests(self, clients: int, rate: float) -> int:
        """How many a round of one level sends."""
        return max(self.min_requests, round(self.per_client * clients if clients else rate * self.seconds))

    @property
    def sampling(self) -> dict[str, float]:
        """What requests say of it: the temperature, and whatever is not off."""
        off = Scenario()
        values = {name: getattr(self, name) for name in SAMPLING}
        return {name: value for name, value in values.items() if name == "temperature" or value != getattr(off, name)}

    @property
    def context(self) -> float:
        """Mean tokens that a decode step reads."""
        return self.shared_prefix + sum(self.input) / 2 + self.output / 2


def _value(name: str, text: str) -> Any:
    if name in TUPLES:
        return tuple(TUPLES[name](part) for part in text.replace(":", "/").split("/") if part)
    return type(getattr(Scenario(), name))(text)


def parse_scenario(text: str, default: Scenario) -> Scenario:
    """`name:key=value,key=value` over `default`. Raises ValueError for keys that no scenario has."""
    name, _, rest = text.partition(":")
    pairs = dict(part.split("=", 1) for part in rest.split(",") if part)
    return build({"name": name, **pairs}, default)


def build(fields: dict[str, Any], default: Scenario) -> Scenario:
    """A scenario that names its load has that load alone, not also the default's."""
    known = {field.name for field in dataclasses.fields(Scenario)}
    if unknown := set(fields) - known:
        raise ValueError(
            f"unknown keys of a scenario: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}"
        )
    values: dict[str, Any] = {
        key: _value(key, value) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
        for key, value in fields.items()
    }
    if "clients" in values or "rates" in values:
        values = {"clients": (), "rates": (), **values}
    found = dataclasses.replace(default, **values)
    if not found.loads or len(found.input) != 2:
        raise ValueError(f"scenario {found.name}: clients or rates, and input as shortest:longest, are needed")
    return found


def add_options(parser: argparse.ArgumentParser, clients: str) -> None:
    """The options that describe one scenario, and those that name several."""
    parser.add_argument("--clients", default=clients, help="closed loop: numbers of clients, comma separated")
    parser.add_argument("--rates", default="", help="open loop: requests a second, after the closed levels")
    parser.add_argument("--input", default="128:512", help="prompt tokens, shortest:longest")
    parser.add_argument("--output", type=int, default=256)
    parser.add_argument("--endpoint", choices=("completions", "chat"), default="completions")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--shared-prefix", type=int, default=0, help="tokens that all prompts begin with")
    parser.add_argument("--per-client", type=float, default=2.0, help="requests of each client and round")
    parser.add_argument("--seconds", type=float, default=10.0, help="open loop: how long requests arrive")
    parser.add_argument("--rounds", type=int, default=1, help="times that each level is measured")
    parser.add_argument("--scenario", action="append", default=[], help="name:key=value,... ; may be repeated")
    parser.add_argument("--scenarios", type=Path, help="JSON file: a list of scenarios")


def from_options(args: argparse.Namespace) -> list[Scenario]:
    """The named scenarios, which take what they leave open from the options; or the options' own."""
    default = Scenario(
        clients=tuple(int(part) for part in args.clients.split(",") if part),
        rates=tuple(float(part) for part in args.rates.split(",") if part),
        input=_value("input", args.input),
        output=args.output,
        temperature=args.temperature,
        shared_prefix=args.shared_prefix,
        endpoint=args.endpoint,
        per_client=args.per_client,
        seconds=args.seconds,
        rounds=args.rounds,
    )
    found = [parse_scenario(text, default) for text in args.scenario]
    if args.scenarios:
        found += [build(fields, default) for fields in json.loads(args.scenarios.read_text())]
    if len({scenario.name for scenario in found}) < len(found):
        raise ValueError("two scenarios have the same name")
    return found or [default]
