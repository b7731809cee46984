"""What a run came to: a table for the terminal and a page for the browser.

Both are made from the document of a run (``run.json``); the page also shows its history (``history.jsonl``), and
the problem and the other runs of its sweep that lie beside it. A page is HTML or Markdown. Keys that are read:

``result``
    what ``compress --json`` prints: ``budget``, ``budget_metric`` (``latency_ms``, ``size_bytes``,
    ``memory_bytes``, ``macs``), ``budget_requested``, ``budget_met``, ``budget_used``, ``predicted``,
    ``measured``; ``metric``, ``accuracy``, ``accuracy_of``, ``baseline_accuracy``; ``predicted_latency_ms``,
    ``measured_latency_ms``, ``baseline_latency_ms``, ``latency_ratio`` (median and 95 % interval);
    ``parameters``, ``macs``, ``size_bytes``, each also with ``baseline_``; ``memory_of`` (``activations``, or
    ``weights and activations``), ``predicted_memory_bytes``, ``measured_memory_bytes``,
    ``baseline_memory_bytes``. A number that is not known is None.
    Without a budget ``budget``, ``budget_metric`` and the like are None. ``sparse`` is None, or ``rule``,
    ``requested``, ``met``, ``sparsity``, ``weights``, ``zeros``, ``densities`` and ``left_out`` (weight → share, or
    reason), ``storage``, ``stored_bytes``, ``dense_stored_bytes``, ``limit``, ``zeroed_to_fit``, ``remark``; with
    recovery also ``accuracy_before_recovery`` and ``accuracy_after_recovery``.
``mask_updates``
    may be absent; ``weights``: what :class:`hwprune.regrow.MaskUpdate` says, update by update; ``channels``:
    ``{"epoch", "widths"}``; ``grown``: ``{"call", "grown", "explored"}``.
``groups``
    ``{"name", "channels", "kept", "frozen"}`` per channel group; ``frozen`` is the reason or None.
``layers``
    ``{"name", "before_ms", "after_ms", "source"}`` per layer, by the latency table; may be empty.
``stages.settle.trials``
    ``{"predicted", "measured"}`` per network that the closed loop measured, in the budget's unit.
``stages.measured.pair``
    ``PairMeasurement.to_dict()``, or None.
``config``
    the settings; the command that reproduces the run is made from them.
``device``, ``versions``
    shown as they are.

A bundle's page is made from its manifest alone.

The table and the picture of what can be cut are made from what ``hwprune.inspect`` returns
(:func:`hwprune.network.inspection`).
"""

from __future__ import annotations

from hwprune.report.bundle_page import write_bundle_report as write_bundle_report
from hwprune.report.forms import Form as Form
from hwprune.report.forms import form_of as form_of
from hwprune.report.forms import write_page as write_page
from hwprune.report.graph import network_svg as network_svg
from hwprune.report.inspection import inspection_text as inspection_text
from hwprune.report.page import html_report as html_report
from hwprune.report.page import write_report as write_report
from hwprune.report.summary import render_text as render_text
from hwprune.report.summary import summary_table as summary_table
from hwprune.report.sweep_page import sweep_page as sweep_page
from hwprune.report.sweep_page import write_sweep as write_sweep
from hwprune.report.table_page import table_page as table_page

__all__ = [
    "Form",
    "form_of",
    "html_report",
    "inspection_text",
    "network_svg",
    "render_text",
    "summary_table",
    "sweep_page",
    "table_page",
    "write_bundle_report",
    "write_page",
    "write_report",
    "write_sweep",
]
