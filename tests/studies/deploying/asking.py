"""How tests ask a demo: over HTTP, as its page does."""

import io
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from studies.deploying.demo_server import DemoPage
from studies.deploying.own_images import bytes_of


@dataclass(frozen=True)
class Answer:
    """What came back."""

    code: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(page: DemoPage, path: str, wanted: object = None, **headers: str) -> Answer:
    """Ask for a path; what is not bytes is sent as JSON, and None asks without a body."""
    data = wanted if wanted is None or isinstance(wanted, bytes) else json.dumps(wanted).encode()
    kind = {"Content-Type": "application/json"} if data is not None else {}
    asked = urllib.request.Request(page.address + path, data, {**kind, **headers})  # type: ignore[arg-type]
    try:
        with urllib.request.urlopen(asked) as answer:
            return Answer(answer.status, answer.read(), dict(answer.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(), dict(error.headers))


def pixels_of(address: str) -> Tensor:
    """Return the image that an address holds, uint8 (C, H, W)."""
    found: Tensor = pil_to_tensor(Image.open(io.BytesIO(bytes_of(address))))
    return found
