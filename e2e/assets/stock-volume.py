"""Writes stock-volume.vl.json: the chart of R1's dashboard, as its authors draw it with Altair, and as Altair itself writes it down. Run by hand:

    python3 -m venv /tmp/altair && /tmp/altair/bin/pip install altair==6.3.0 && /tmp/altair/bin/python e2e/assets/stock-volume.py
"""

import json
from pathlib import Path

import altair

# Rows of the view `volume_today`, the shorter bar first: it is the chart that sorts.
ROWS = [
    {"sector": "Communication Services", "total_volume": 34_847_110_800},
    {"sector": "Information Technology", "total_volume": 275_043_882_850},
]

chart = (
    altair.Chart(altair.InlineData(values=ROWS))
    .mark_bar(color="#2a9d8f")
    .encode(
        x=altair.X("total_volume:Q", title="Volume"),
        y=altair.Y("sector:N", sort="-x", title=None),
    )
)

Path(__file__).with_name("stock-volume.vl.json").write_text(json.dumps(chart.to_dict(), indent=2) + "\n")
