"""Several models beside each other on a page: each question is asked of all of them, and their
answers appear as they come, with how long they took.
"""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from jobs.endpoint.app import Endpoint
from jobs.endpoint.shipped_model import ShippedModel
from jobs.llama_cpp.runtime import Runtime

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:75rem;padding:0 1rem}
form{display:flex;gap:.5rem}textarea{flex:1;font:inherit;min-height:4rem}button{font:inherit}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(18rem,1fr));gap:1rem}
.row>div{border:1px solid #8886;border-radius:.4rem;padding:.6rem;white-space:pre-wrap;
overflow-wrap:anywhere}h2{font-size:1rem;margin:.2rem 0}small{opacity:.7}
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}
"""
SCRIPT = """
const models = JSON.parse(document.getElementById('models').textContent);
const asked = document.getElementById('asked'), told = document.getElementById('told');
async function answer(model, question, cell) {
  const began = performance.now();
  let first = null, text = '';
  const say = (note) => { cell.querySelector('p').textContent = text;
                          cell.querySelector('small').textContent = note; };
  try {
    const reply = await fetch('/v1/chat/completions', {method: 'POST',
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({model, stream: true, messages: [{role: 'user', content: question}]})});
    if (!reply.ok) { say((await reply.json()).error.message); return; }
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      const lines = (rest + value).split('\\n');
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith('data: ') || line === 'data: [DONE]') continue;
        const event = JSON.parse(line.slice(6));
        if (event.error) { say(event.error.message); return; }
        const piece = event.choices.length ? event.choices[0].delta.content || '' : '';
        if (piece && first === null) first = performance.now() - began;
        text += piece;
        say('');
      }
    }
    const all = ((performance.now() - began) / 1000).toFixed(2);
    say(first === null ? `no answer after ${all} s`
                       : `first token after ${(first / 1000).toFixed(2)} s, all after ${all} s`);
  } catch (error) { say(String(error)); }
}
document.querySelector('form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const question = asked.value.trim();
  if (!question) return;
  const heading = document.createElement('h2'), row = document.createElement('div');
  heading.textContent = question;
  row.className = 'row';
  const cells = models.map((model) => {
    const cell = document.createElement('div');
    for (const [tag, text] of [['h2', model], ['p', ''], ['small', '...']]) {
      const part = document.createElement(tag);
      part.textContent = text;
      cell.append(part);
    }
    row.append(cell);
    return cell;
  });
  told.prepend(heading, row);
  for (const [index, model] of models.entries()) await answer(model, question, cells[index]);
});
"""


class SideBySide(Endpoint):
    """An endpoint whose models have a runtime each, with a page that asks all of them."""

    def __init__(
        self,
        models: Sequence[ShippedModel],
        runtimes: Mapping[str, Runtime],
        hosts: Collection[str],
    ) -> None:
        super().__init__(models, next(iter(runtimes.values())), hosts, None)
        self.runtimes = runtimes

    def app(self) -> Starlette:
        """As an ASGI application."""
        application = super().app()
        application.router.routes.append(Route("/", self.page))
        return application

    def runtime_of(self, model: ShippedModel) -> Runtime:
        """What answers for a model."""
        return self.runtimes[model.name]

    async def page(self, request: Request) -> Response:
        """The page."""
        refused = self.refusal(request)
        if refused is not None:
            return refused
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        return HTMLResponse(page_of(list(self.models)), headers=headers)


def page_of(models: Sequence[str]) -> str:
    """The page as HTML."""
    title = html.escape(" beside ".join(models))
    listed = json.dumps(list(models)).replace("<", "\\u003c")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
        '<form><textarea id="asked" aria-label="question" autofocus></textarea>'
        '<button>Ask</button></form><div id="told" aria-live="polite"></div>'
        f'<script type="application/json" id="models">{listed}</script>'
        f"<script>{SCRIPT}</script></body></html>"
    )
