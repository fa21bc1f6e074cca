"""Tasks that ask a vendor of somebody else's by httpx; its settings say nothing of it but the transport."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import luigi

from luigi_spendguard import VendorTask
from luigi_spendguard.proxy.httpx import SpendTransport

OUT = Path(os.environ.get("OUT_DIR", "."))
URL = "https://api.openai.com/v1/chat/completions"


class Summarise(VendorTask, luigi.Task):
    """Asks for a summary of a text, as a whole or as a stream."""

    text = luigi.Parameter()
    model = luigi.Parameter(default="m-small")
    stream = luigi.BoolParameter()
    tokens = luigi.IntParameter(default=50)

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(OUT / self.task_id))

    def run(self) -> None:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.text}],
            "max_completion_tokens": self.tokens,
        }
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
        client = httpx.Client(transport=SpendTransport(), headers=headers)
        with client, client.stream("POST", URL, json=body) as reply:
            reply.raise_for_status()
            said = "\n".join(reply.iter_lines())
        if (OUT / "die").exists():
            raise RuntimeError("died after it had paid")
        with self.output().open("w") as file:
            file.write(said)


class Summaries(luigi.WrapperTask):
    """Root of a run."""

    texts = luigi.Parameter()
    stream = luigi.BoolParameter()
    model = luigi.Parameter(default="m-small")
    run_id = luigi.Parameter()
    budget_usd = luigi.Parameter(default="")

    def requires(self) -> list[luigi.Task]:
        return [Summarise(text=text, stream=self.stream, model=self.model) for text in self.texts.split(",")]
