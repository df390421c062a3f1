"""The API's description is a page of this server alone, and keeps to the policy of every other one."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from openinspect.api.app import create_app


def test_the_page_and_its_files_keep_to_the_policy_and_name_no_other_host() -> None:
    client = TestClient(create_app())
    page = client.get("/api/docs")
    assert page.status_code == 200
    assert re.findall(r"(?:src|href)=\"([^\"]+)", page.text)
    assert "//" not in page.text.replace("<!doctype html>", "")
    assert not re.search(r"<script(?! src=)|<style| style=| on[a-z]+=", page.text)
    for path in ["/api/docs", *re.findall(r"(?:src|href)=\"(/api/[^\"]+)", page.text), "/api/openapi.json"]:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "script-src 'self';" in answer.headers["content-security-policy"], path
    assert client.get("/api/docs/other.js").status_code == 404
