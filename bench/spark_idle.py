"""R3 on Spark Structured Streaming, at rest: one driver with a query for each topic, as people run it instead of six.

    spark-submit --jars a.jar,b.jar spark_idle.py KAFKA MESSAGES FOLDER TOPIC...

It says `{"pid": .., "at": "session"}` when there is a session, `"queries"` when each query has read its MESSAGES; behind each it waits for a file of that name in
FOLDER, since Spark leaves stdin to nobody.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

kafka, messages, folder, *topics = sys.argv[1:]
spark = (
    SparkSession.builder.appName("idle").master("local[2]").config("spark.sql.shuffle.partitions", "2").config("spark.ui.enabled", "false").getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")


def at(point: str) -> None:
    """Spark itself is the JVM that started this process."""
    print(json.dumps({"pid": os.getppid(), "at": point}), flush=True)
    while not Path(folder, point).exists():
        time.sleep(0.2)  # until the file is there


at("session")
schema = "login STRUCT<uuid: STRING>, name STRUCT<first: STRING, last: STRING>, gender STRING, email STRING, location STRUCT<city: STRING, country: STRING>, dob STRUCT<age: INT>"
with tempfile.TemporaryDirectory() as checkpoints:
    queries = []
    for topic in topics:
        messages_of = spark.readStream.format("kafka").option("kafka.bootstrap.servers", kafka).option("subscribe", topic).option("startingOffsets", "earliest").load()
        users = messages_of.select(F.from_json(F.col("value").cast("string"), schema).alias("u")).selectExpr(
            "u.login.uuid AS id", "u.name.first AS first_name", "u.name.last AS last_name", "u.gender", "u.email", "u.location.city", "u.location.country", "u.dob.age"
        )
        # There is no connector to MongoDB here: its memory is left out, in Spark's favour.
        stream = users.writeStream.format("noop").trigger(processingTime="2 seconds").option("checkpointLocation", f"{checkpoints}/{topic}")
        queries.append(stream.start())
    while any(sum(progress["numInputRows"] for progress in query.recentProgress) < int(messages) for query in queries):
        time.sleep(0.5)  # until it says that it has read them
        for query in queries:
            if query.exception():
                raise SystemExit(str(query.exception()))
    at("queries")
    for query in queries:
        query.stop()
