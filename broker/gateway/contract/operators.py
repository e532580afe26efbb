"""Rows of the contract: what operators and their tools ask for."""

from typing import Any, Final

from broker.gateway import documentation, health
from broker.gateway.operation import Operation
from schema.http import HealthReply, ReadyReply

OPERATORS: Final = (
    Operation(
        name="healthz",
        method="GET",
        path="/healthz",
        summary="Whether the process is up",
        tag="Operation",
        scope=None,
        replies={200: HealthReply},
        errors=(),
        handler=health.healthz,
    ),
    Operation(
        name="readyz",
        method="GET",
        path="/readyz",
        summary="Whether requests can be served",
        tag="Operation",
        scope=None,
        replies={200: ReadyReply, 503: ReadyReply},
        errors=(),
        handler=health.readyz,
    ),
    Operation(
        name="openapi",
        method="GET",
        path="/openapi.json",
        summary="This contract as OpenAPI 3.1",
        tag="Operation",
        scope=None,
        replies={200: dict[str, Any]},  # the document is JSON Schema in JSON
        errors=(),
        handler=documentation.show_document,
    ),
    Operation(
        name="docs",
        method="GET",
        path="/docs",
        summary="This contract to read and try",
        tag="Operation",
        scope=None,
        replies={200: None},
        media_type="text/html",
        errors=(),
        handler=documentation.show_page,
    ),
    Operation(
        name="docsStyle",
        method="GET",
        path="/docs/docs.css",
        summary="The style of the page",
        tag="Operation",
        scope=None,
        replies={200: None},
        media_type="text/css",
        errors=(),
        handler=documentation.show_style,
    ),
    Operation(
        name="docsScript",
        method="GET",
        path="/docs/docs.js",
        summary="The script of the page",
        tag="Operation",
        scope=None,
        replies={200: None},
        media_type="text/javascript",
        errors=(),
        handler=documentation.show_script,
    ),
)
