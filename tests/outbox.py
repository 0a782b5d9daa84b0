"""A producer for tests: keeps what it is given, and refuses when it is told to."""

from dataclasses import dataclass, field

from sensorlib.core import BusError

Message = tuple[str, str | None, bytes]  # Topic, key, value


@dataclass
class Outbox:
    "Refuses the first few flushes, as a broker does that loses what it had taken."

    refusals: int = 0
    sent: list[Message] = field(default_factory=list)  # Everything that was handed over
    messages: list[Message] = field(default_factory=list)  # What arrived
    waiting: list[Message] = field(default_factory=list)

    def send(self, topic: str, key: str | None, value: bytes) -> None:
        self.sent.append((topic, key, value))
        self.waiting.append((topic, key, value))

    def flush(self) -> None:
        taken, self.waiting = self.waiting, []
        if self.refusals:
            self.refusals -= 1
            raise BusError("no broker")
        self.messages += taken
