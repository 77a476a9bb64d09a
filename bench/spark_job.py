"""R1 on Spark Structured Streaming, as people write it: drains a topic once into `sink` and prints, as one line of JSON, what that took.

    spark-submit --driver-memory 4g --jars a.jar,b.jar spark_job.py blackhole|mysql|cassandra|both|kafka TOPIC TARGET KAFKA CASSANDRA MYSQL DATABASE
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.streaming import StreamingQuery

sink, topic, target, kafka, cassandra, mysql, database = sys.argv[1:]
cassandra_host, cassandra_port = cassandra.split(":")
spark = (
    SparkSession.builder.appName("bench").master("local[2]")
    .config("spark.sql.shuffle.partitions", "2")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.cassandra.connection.host", cassandra_host)
    .config("spark.cassandra.connection.port", cassandra_port)
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")

schema = T.ArrayType(T.StructType([
    T.StructField("id", T.LongType()), T.StructField("created_at", T.TimestampType()), T.StructField("ticker", T.StringType()),
    T.StructField("sector", T.StringType()), T.StructField("volume", T.LongType()), T.StructField("market_cap", T.DoubleType()),
    T.StructField("price", T.DoubleType()),
]))
rows = (
    spark.readStream.format("kafka").option("kafka.bootstrap.servers", kafka).option("subscribe", topic).option("startingOffsets", "earliest").load()
    .select(F.explode(F.from_json(F.col("value").cast("string"), schema)).alias("row")).select("row.*")
)


def to_cassandra(batch: DataFrame, _epoch: int) -> None:
    batch.write.format("org.apache.spark.sql.cassandra").options(table="real_time_data", keyspace=database).mode("append").save()


def to_mysql(batch: DataFrame, _epoch: int) -> None:
    totals = (
        batch.groupBy(F.to_date("created_at").alias("date"), "sector").agg(F.sum("volume").alias("total_volume"))
        .withColumn("processed_at", F.current_timestamp())
    )
    (
        totals.write.format("jdbc").mode("append").option("driver", "com.mysql.cj.jdbc.Driver").option("url", f"jdbc:mysql://{mysql}/{database}")
        .option("dbtable", "aggregated_data").option("user", "root").option("password", "root").save()
    )


def start(writer: str, checkpoint: str) -> StreamingQuery:
    if writer == "kafka":
        messages = rows.select(F.col("ticker").alias("key"), F.to_json(F.struct("*")).alias("value"))
        stream = messages.writeStream.format("kafka").option("kafka.bootstrap.servers", kafka).option("topic", target)
    elif writer == "blackhole":
        stream = rows.writeStream.format("noop")
    else:
        stream = rows.writeStream.foreachBatch({"cassandra": to_cassandra, "mysql": to_mysql}[writer])
    return stream.trigger(availableNow=True).option("checkpointLocation", checkpoint).start()


def cpu_seconds() -> float:
    """Of the JVM, where Spark runs (spark-submit: it is this process's parent), and of this process, which only tells it what to do."""
    jvm = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    own = resource.getrusage(resource.RUSAGE_SELF)
    return (int(jvm[11]) + int(jvm[12])) / os.sysconf("SC_CLK_TCK") + own.ru_utime + own.ru_stime


writers = ["cassandra", "mysql"] if sink == "both" else [sink]
with tempfile.TemporaryDirectory() as checkpoints:
    begun, cpu = time.monotonic(), cpu_seconds()
    queries = [start(writer, f"{checkpoints}/{writer}") for writer in writers]
    for query in queries:
        query.awaitTermination()
    took = {"seconds": time.monotonic() - begun, "cpu": cpu_seconds() - cpu}
# What the Kafka source calls rows are messages.
print(json.dumps(took | {"messages": [sum(progress["numInputRows"] for progress in query.recentProgress) for query in queries]}))
