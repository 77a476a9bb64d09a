"""Volume by sector, as the dashboard has it. DASHBOARD is its address, with a password `http://user:password@localhost:8080`."""

import os

import pyarrow as pa
import requests
import streamlit as st

ROWS = os.environ.get("DASHBOARD", "http://localhost:8080").rstrip("/") + "/api/v1/charts/volume/data.arrow"

st.title("Volume by sector")


@st.fragment(run_every="5s")
def volume():
    answer = requests.get(ROWS, timeout=10)
    answer.raise_for_status()
    rows = pa.ipc.open_stream(answer.content).read_pandas().sort_values("total_volume", ascending=False)
    # MySQL's sums are decimals: exact in the table, floats for the bars.
    st.bar_chart(rows.astype({"total_volume": float}), x="sector", y="total_volume", horizontal=True, sort="-total_volume")
    st.dataframe(rows, hide_index=True)
    st.caption(f"read from MySQL at {answer.headers['x-tapeline-read-at']}")


volume()
