"""The ways to read a topic and write others, each as a process of its own, so that its CPU seconds can be told.

python passes.py MODE BROKERS TOPIC: runs until it is ended.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer

from sensorlib.core import KIND_TOPICS, RAW_TOPIC
from sensorlib.stream import fetch_jars, java_home, kafka_tables, statements, submit

BRANCHES = ("temperature", "humidity", "pressure", "P1", "P2", "noise_LAeq", "noise_LA_min", "noise_LA_max")
HISTORY_AND_NEIGHBOURS = ["numbered", "begun", "followed", "recalled", "placed", "heard_near", "sorted_near", "near"]
HISTORY_AND_NEIGHBOURS += ["heard_around", "sorted_around", "around", "compared"]
OPTIONS = {"parallelism.default": "1", "pipeline.object-reuse": "true"}


def connector() -> str:
    return ";".join(jar.as_uri() for jar in fetch_jars("connector"))


def tables_of(brokers: str, topic: str) -> dict[str, str]:
    "The tables of the job over another topic."
    return {name: text.replace(f"'{RAW_TOPIC}'", f"'{topic}'") for name, text in kafka_tables(brokers).items()}


def environment() -> Any:
    "A table environment on a mini cluster, with Kafka's connector."
    from pyflink.table import EnvironmentSettings, TableEnvironment

    flink = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for key, value in OPTIONS.items():
        flink.get_config().set(key, value)
    flink.get_config().set("pipeline.jars", connector())
    return flink


def our_job(brokers: str, topic: str) -> Any:
    "The job of flink/sql."
    return submit(tables_of(brokers, topic), {**OPTIONS, "pipeline.jars": connector()})


def record_local(brokers: str, topic: str) -> Any:
    "The job of flink/sql without history and neighbours: what one record shows."
    flink = environment()
    define, insert = statements(tables_of(brokers, topic))
    for statement in define:
        name = re.match("CREATE (?:VIEW|TABLE) (\\w+)", statement)[1]  # type: ignore[index]
        if name == "remembered":
            known = (
                "CAST(24 AS BIGINT) AS known, CAST(1 AS BIGINT) AS held, 0 AS held_s, CAST(NULL AS STRING) AS ts_before"
            )
            flink.execute_sql(f"CREATE VIEW remembered AS SELECT s.*, {known} FROM sorted AS s")
        elif name == "readings":
            alone = re.sub("own [+] .* AS qc", "own AS qc", statement).replace("FROM compared", "FROM tested")
            flink.execute_sql(alone)
        elif name not in HISTORY_AND_NEIGHBOURS:
            flink.execute_sql(statement)
    job = flink.create_statement_set()
    for statement in insert:
        job.add_insert_sql(statement)
    return job.execute().get_job_client()


def raw_to_raw(brokers: str, topic: str) -> Any:
    "Flink's own pass: bytes in, the same bytes out."
    flink = environment()
    bus = f"'connector' = 'kafka', 'properties.bootstrap.servers' = '{brokers}', 'format' = 'raw'"
    source = "'scan.startup.mode' = 'earliest-offset', 'properties.group.id' = 'raw'"
    sink = "'properties.compression.type' = 'lz4', 'properties.linger.ms' = '20', 'properties.batch.size' = '262144'"
    flink.execute_sql(f"CREATE TABLE a (payload BYTES) WITH ({bus}, {source}, 'topic' = '{topic}')")
    flink.execute_sql(f"CREATE TABLE b (payload BYTES) WITH ({bus}, {sink}, 'topic' = 'copy')")
    return flink.execute_sql("INSERT INTO b SELECT payload FROM a").get_job_client()


def plain_loop(brokers: str, topic: str) -> Any:
    "confluent-kafka alone: consume and produce, nothing in between."
    reader = Consumer({"bootstrap.servers": brokers, "group.id": "loop", "auto.offset.reset": "earliest"})
    reader.subscribe([topic])
    settings = {"compression.type": "lz4", "linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
    writer = Producer({"bootstrap.servers": brokers, **settings})
    while True:
        for message in reader.consume(5000, 0.1):
            writer.produce("copy", message.value(), message.key())
        writer.poll(0)


def split(brokers: str, topic: str) -> Any:
    "The least that any SQL job must do: read JSON, one row per value, write JSON. Nothing is parsed, judged or buried."
    flink = environment()
    define, _ = statements(tables_of(brokers, topic))
    for statement in define:
        if "TABLE records" in statement or "TABLE published" in statement:
            flink.execute_sql(statement.replace(KIND_TOPICS[0], "copy"))
    return flink.execute_sql("""
        INSERT INTO published (topic, message_key, sensor_type, country, place, cell, ts, value_type, text)
        SELECT 'copy', r.sensor.id, r.sensor.sensor_type.name, r.country_abb, r.place, r.cell, r.`timestamp`, m.value_type, m.`value`
        FROM records AS r CROSS JOIN UNNEST(r.sensordatavalues) AS m (value_type, `value`)
    """).get_job_client()


def prototype(brokers: str, topic: str) -> Any:
    "The way of the prototype: PyFlink's DataStream, one Python map, then eight filter and map branches."
    from pyflink.common import SimpleStringSchema, Types, WatermarkStrategy
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.datastream.connectors.kafka import (
        KafkaOffsetsInitializer,
        KafkaRecordSerializationSchema,
        KafkaSink,
        KafkaSource,
    )

    def flatten(text: str) -> str:
        record = json.loads(text)
        values = {v["value_type"]: float(v["value"]) for v in record["sensordatavalues"]}
        return json.dumps({"sensor_id": record["sensor"]["id"], "ts": record["timestamp"], **values})

    def of(name: str) -> tuple[Callable[[str], bool], Callable[[str], str]]:
        def pick(text: str) -> str:
            row = json.loads(text)
            return json.dumps({"sensor_id": row["sensor_id"], "ts": row["ts"], "value": row[name]})

        return (lambda text: name in json.loads(text)), pick

    flink = StreamExecutionEnvironment.get_execution_environment()
    flink.set_parallelism(1)
    flink.set_python_executable(sys.executable)
    flink.add_jars(*(jar.as_uri() for jar in fetch_jars("connector")))
    source = (
        KafkaSource.builder().set_bootstrap_servers(brokers).set_topics(topic).set_group_id("prototype")
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_value_only_deserializer(SimpleStringSchema()).build()
    )  # fmt: skip
    flat = flink.from_source(source, WatermarkStrategy.no_watermarks(), "raw").map(flatten, Types.STRING())
    for name in BRANCHES:
        keep, pick = of(name)
        schema = (
            KafkaRecordSerializationSchema.builder()
            .set_topic("copy")
            .set_value_serialization_schema(SimpleStringSchema())
            .build()
        )
        sink = KafkaSink.builder().set_bootstrap_servers(brokers).set_record_serializer(schema).build()
        flat.filter(keep).map(pick, Types.STRING()).sink_to(sink)
    return flink.execute_async("prototype")


PASSES = {
    "ours": our_job,
    "record_local": record_local,
    "raw": raw_to_raw,
    "split": split,
    "loop": plain_loop,
    "prototype": prototype,
}


def main() -> None:
    mode, brokers, topic = sys.argv[1:]
    os.environ["JAVA_HOME"] = str(java_home())
    os.environ.setdefault("JVM_ARGS", "-Xmx1g -XX:+UseSerialGC")
    os.environ.setdefault("FLINK_LOG_DIR", str(Path.cwd()))
    PASSES[mode](brokers, topic).get_job_execution_result().result()


if __name__ == "__main__":
    main()
