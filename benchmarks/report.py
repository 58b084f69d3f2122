"""Prints the results: tables in Markdown, and a plot of cost against size as SVG."""

import math


class Table:
    """A title, a sentence on how to read it, and rows."""

    def __init__(self, title, note, header, rows):
        self.title, self.note, self.header = title, note, header
        self.rows = [[str(cell) for cell in row] for row in rows]

    def __str__(self):
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows)]

        def line(cells):
            padded = [
                cell.rjust(width) if n else cell.ljust(width) for n, (cell, width) in enumerate(zip(cells, widths))
            ]
            return f"| {' | '.join(padded)} |"

        rule = "|".join("-" * (width + 1) + (":" if n else "-") for n, width in enumerate(widths))
        head = [f"## {self.title}", ""] + ([self.note, ""] if self.note else [])
        return "\n".join([*head, line(self.header), f"|{rule}|", *map(line, self.rows)])


def number(value):
    """Three significant digits, no exponent."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def ratio(value, to):
    return "–" if value is None or not to else f"×{number(value / to)}"


def micro(ns, per=1):
    return "–" if ns is None else number(ns / 1000 / per)


# ------------------------------------------------------------------- plot

_COLOURS = ["#222222", "#d62728", "#ff7f0e", "#9467bd", "#1f77b4", "#2ca02c", "#8c564b", "#17becf", "#e377c2"]
_COLOURS += ["#7f7f7f", "#bcbd22", "#393b79", "#e7298a", "#006d2c", "#a63603"]
_WIDTH, _HEIGHT = 860, 500
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 620, 50, 440


def plot(title, series):
    """Lines {name: {rules: µs per rule}} on two logarithmic axes."""
    points = [(x, y) for line in series.values() for x, y in line.items()]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low = math.floor(math.log10(min(y for _, y in points)))
    y_high = math.ceil(math.log10(max(y for _, y in points)))

    def across(x):
        span = math.log10(x_high / x_low) or 1
        return _LEFT + 15 + (_RIGHT - _LEFT - 30) * math.log10(x / x_low) / span

    def up(y):
        return _BOTTOM - (_BOTTOM - _TOP) * (math.log10(y) - y_low) / ((y_high - y_low) or 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="13">',
        f"<title>{title}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="28" font-size="16">{title}</text>',
    ]
    for power in range(y_low, y_high + 1):
        y = up(10**power)
        out.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>')
    for x in sorted({x for x, _ in points}):
        out.append(f'<path d="M{across(x):.1f} {_TOP}V{_BOTTOM}" stroke="#eee"/>')
        out.append(f'<text x="{across(x):.1f}" y="{_BOTTOM + 20}" text-anchor="middle">{x:,}</text>')
    middle = (_TOP + _BOTTOM) / 2
    out.append(f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 44}" text-anchor="middle">rules in the table</text>')
    out.append(
        f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">µs per rule and poll</text>'
    )
    ends = _spread({name: up(line[max(line)]) for name, line in series.items()})
    for (name, line), colour in zip(series.items(), _COLOURS):
        places = [(across(x), up(y)) for x, y in sorted(line.items())]
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        out.append(
            f'<path d="M{x:.1f} {y:.1f}L{_RIGHT + 10} {ends[name]:.1f}" stroke="{colour}" stroke-dasharray="2 3"/>'
        )
        out.append(f'<text x="{_RIGHT + 15}" y="{ends[name] + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])


def _spread(wanted, gap=17):
    """Move labels that would overlap apart, as little as possible."""
    names = sorted(wanted, key=wanted.get)
    places = [wanted[name] for name in names]
    for _ in range(200):
        for n in range(1, len(places)):
            lack = gap - (places[n] - places[n - 1])
            if lack > 0:
                places[n - 1] -= lack / 2
                places[n] += lack / 2
    return dict(zip(names, places))
