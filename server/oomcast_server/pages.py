"""What a browser opens: the page, its files, and the link that lets it in."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from oomcast_server.assets import Asset, Assets
from oomcast_server.auth import COOKIE, Secret, unauthorized

__all__ = ["make_router"]

_FOREVER = "public, max-age=31536000, immutable"
_RUN_ID = re.compile(r"[a-z0-9]{8,40}")
_GET = ["GET", "HEAD"]
_REMEMBER_S = 30 * 24 * 3600
# An icon of its own: else the browser asks for /favicon.ico, and logs that there is none.
_LOGGED_IN = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>oomcast</title><link rel="icon" href="data:,">'
    '<meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Go on to the dashboard</a>'
)


def make_router(assets: Assets, secret: Secret) -> APIRouter:
    """The routes of pages and assets."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=_GET)
    @router.api_route("/runs/{run_id}", methods=_GET)
    async def shell() -> Response:
        return HTMLResponse(assets.shell)

    @router.api_route("/assets/{path:path}", methods=_GET)
    async def asset(request: Request) -> Response:
        found = assets.files.get(request.scope["path"])
        if found is None:
            raise HTTPException(404, "no such file")
        return _serve(found, request.headers.get("accept-encoding", ""))

    @router.get("/login")
    async def login(request: Request, token: str = "", run: str = "") -> Response:
        if not secret.is_token(token):
            return unauthorized(request.headers.get("accept", ""))
        # A redirect would be followed without the Strict cookie where the link was clicked on another site.
        target = f"/runs/{run}" if _RUN_ID.fullmatch(run) else "/"
        response = HTMLResponse(_LOGGED_IN.format(target=target))
        response.set_cookie(COOKIE, secret.session, max_age=_REMEMBER_S, httponly=True, samesite="strict", path="/")
        return response

    return router


def _serve(asset: Asset, accepted: str) -> Response:
    headers = {"Cache-Control": _FOREVER, "Vary": "Accept-Encoding", "Content-Type": asset.content_type}
    if asset.gzipped is not None and _takes_gzip(accepted):
        return Response(asset.gzipped, headers={**headers, "Content-Encoding": "gzip"})
    return Response(asset.body, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        name, _, weight = part.strip().partition(";")
        if name.strip() == "gzip":
            return weight.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
