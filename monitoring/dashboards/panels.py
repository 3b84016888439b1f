"""Panels as both dashboards have them: a query, a title that says what is seen, a description that says how to read it.

Queries need no recording rules, so that a dashboard can be imported alone, and stand for any scrape configuration that
sets `namespace` and `pod` (and `gateway` on the gateway's series). `$filter` in a query is the dashboard's own
selection by its variables.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
WIDTH = 24
# One colour for one meaning, on every panel.
COLOURS = {
    "warm": "green",
    "cold": "blue",
    "spill": "orange",
    "spread": "super-light-blue",
    "load_only": "purple",
    "fallback": "red",
    "running": "green",
    "waiting": "orange",
    "predicted": "light-blue",
    "true": "green",
}


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Graph:
    """A time series."""

    title: str
    says: str
    queries: list[Query]
    unit: str = "short"
    width: int = 8
    stacked: bool = False
    most: float | None = None


@dataclass(frozen=True)
class Number:
    """One number, the newest. `bad_from` colours it red from there on; `words` stand for some values."""

    title: str
    says: str
    expr: str
    unit: str = "short"
    width: int = 3
    bad_from: float | None = None
    bad_below: float | None = None
    words: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    title: str
    panels: list[Graph | Number]


@dataclass(frozen=True)
class Variable:
    """What the reader may choose from: values of `label` of `metric`."""

    name: str
    metric: str
    label: str


@dataclass(frozen=True)
class Page:
    uid: str
    title: str
    says: str
    filter: str
    variables: list[Variable]
    rows: list[Row]
    # Text boxes: name, label, default.
    boxes: list[tuple[str, str, str]] = field(default_factory=list)


def queries(page: Page) -> Iterator[tuple[str, str]]:
    """Title and expression of every query, as the dashboard sends them but for its variables."""
    for row in page.rows:
        for panel in row.panels:
            for query in panel.queries if isinstance(panel, Graph) else [Query(panel.expr)]:
                yield panel.title, query.expr.replace("$filter", page.filter)


def build(page: Page) -> dashboard.Dashboard:
    """The dashboard, in Grafana's form."""
    result = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.says)
        .tags(["warmpath", "vllm"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("warmpath")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["warmpath"])
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in page.variables:
        result.with_variable(_choice(variable))
    for name, label, default in page.boxes:
        option = VariableOption(selected=True, text=default, value=default)
        result.with_variable(
            dashboard.TextBoxVariable(name).label(label).default_value(default).current(option).options([option])
        )
    numbers = count(1)
    for row in page.rows:
        result.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made = _graph(panel, page) if isinstance(panel, Graph) else _number(panel, page)
            result.with_panel(made.id(next(numbers)))
    return result


def _choice(variable: Variable) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.name.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({variable.metric}, {variable.label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .hide(VariableHide.DONT_HIDE)
        .multi(True)
        .include_all(True)
        # Also fits series that lack the label.
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _query(query: Query, at: int, page: Page) -> prometheus.Dataquery:
    made = prometheus.Dataquery().ref_id(chr(ord("A") + at)).expr(query.expr.replace("$filter", page.filter))
    return made.range().legend_format(query.legend or "__auto")


def _graph(panel: Graph, page: Page) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.says)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .height(8)
        .span(panel.width)
        .fill_opacity(60 if panel.stacked else 8)
        .line_width(1)
        .show_points(shapes.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(shapes.LegendDisplayMode.LIST)
            .placement(shapes.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING))
    )
    if panel.most is not None:
        made.max(panel.most)
    if panel.stacked:
        made.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    for at, query in enumerate(panel.queries):
        made.with_target(_query(query, at, page))
    for name, colour in COLOURS.items():
        # A name alone, or as the first word: `warm`, `warm p90`.
        value = {"mode": "fixed", "fixedColor": colour}
        if any(q.legend.split(" ")[0] == name or q.legend in ("{{reason}}", "{{prefix}}") for q in panel.queries):
            made.override_by_regexp(f"/^{name}$|^{name} p50$/", [DynamicConfigValue(id_val="color", value=value)])
    return made


def _number(panel: Number, page: Page) -> stat.Panel:
    steps = [Threshold(value=None, color="red" if panel.bad_below is not None else "text")]
    if panel.bad_from is not None:
        steps.append(Threshold(value=panel.bad_from, color="red"))
    if panel.bad_below is not None:
        steps.append(Threshold(value=panel.bad_below, color="text"))
    made = (
        stat.Panel()
        .title(panel.title)
        .description(panel.says)
        .datasource(SOURCE)
        .unit(panel.unit)
        .height(4)
        .span(panel.width)
        .graph_mode(shapes.BigValueGraphMode.AREA)
        .color_mode(shapes.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_query(Query(panel.expr), 0, page))
    )
    if panel.words:
        texts = {str(value): ValueMappingResult(text=word) for value, word in panel.words.items()}
        made.mappings([ValueMap(options=texts)])
    return made
