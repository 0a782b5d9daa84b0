"""One pass over a topic, as a process of its own, so that its CPU seconds can be told from the others'.

python passes.py MODE BROKERS SMALL LARGE: runs the pass over both topics, once more over the small one before that to
warm up, and prints one JSON object with the CPU seconds of each. The difference is the work; what both share is
starting up.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from sensorlib.core import RAW_TOPIC
from sensorlib.stream import fetch_jars, java_home, kafka_tables, submit

MINE = psutil.Process()


def cpu_s() -> float:
    "CPU seconds of this process and everything below it, what has ended included."
    family = [MINE, *MINE.children(recursive=True)]
    return sum(sum(p.cpu_times()[:4]) for p in family if p.is_running())


def connector() -> str:
    return ";".join(jar.as_uri() for jar in fetch_jars("connector"))


def our_job(brokers: str, topic: str) -> Callable[[], Any]:
    "The job of flink/sql, bounded."
    tables = kafka_tables(brokers, bounded=True)
    for name in ("records_source", "messages_source"):
        tables[name] = tables[name].replace(f"'{RAW_TOPIC}'", f"'{topic}'")
    options = {"parallelism.default": "1", "pipeline.object-reuse": "true", "pipeline.jars": connector()}
    job = submit(tables, options)
    return lambda: job.get_job_execution_result().result()


def raw_to_raw(brokers: str, topic: str) -> Callable[[], Any]:
    "Flink's own pass: bytes in, the same bytes out."
    from pyflink.table import EnvironmentSettings, TableEnvironment

    flink = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for key, value in {
        "pipeline.jars": connector(),
        "parallelism.default": "1",
        "pipeline.object-reuse": "true",
    }.items():
        flink.get_config().set(key, value)
    bus = f"'connector' = 'kafka', 'properties.bootstrap.servers' = '{brokers}', 'format' = 'raw'"
    source = (
        "'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset', 'properties.group.id' = 'raw'"
    )
    sink = "'properties.compression.type' = 'lz4', 'properties.linger.ms' = '20', 'properties.batch.size' = '262144'"
    flink.execute_sql(f"CREATE TABLE a (payload BYTES) WITH ({bus}, {source}, 'topic' = '{topic}')")
    flink.execute_sql(f"CREATE TABLE b (payload BYTES) WITH ({bus}, {sink}, 'topic' = 'copy')")
    job = flink.execute_sql("INSERT INTO b SELECT payload FROM a").get_job_client()
    return lambda: job.get_job_execution_result().result()


def plain_loop(brokers: str, topic: str) -> Callable[[], Any]:
    "confluent-kafka alone: consume and produce, nothing in between."
    from confluent_kafka import Consumer, Producer, TopicPartition

    reader = Consumer({"bootstrap.servers": brokers, "group.id": "loop"})
    left = reader.get_watermark_offsets(TopicPartition(topic, 0))[1]
    reader.assign([TopicPartition(topic, 0, 0)])
    writer = Producer(
        {
            "bootstrap.servers": brokers,
            "compression.type": "lz4",
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )

    def run() -> None:
        nonlocal left
        while left > 0:
            for message in reader.consume(5000, 1):
                writer.produce("copy", message.value(), message.key())
                left -= 1
            writer.poll(0)
        writer.flush()

    return run


def prototype(brokers: str, topic: str) -> Callable[[], Any]:
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
        .set_starting_offsets(KafkaOffsetsInitializer.earliest()).set_bounded(KafkaOffsetsInitializer.latest())
        .set_value_only_deserializer(SimpleStringSchema()).build()
    )  # fmt: skip
    flat = flink.from_source(source, WatermarkStrategy.no_watermarks(), "raw").map(flatten, Types.STRING())
    for name in ("temperature", "humidity", "pressure", "P1", "P2", "noise_LAeq", "noise_LA_min", "noise_LA_max"):
        keep, pick = of(name)
        schema = (
            KafkaRecordSerializationSchema.builder()
            .set_topic("copy")
            .set_value_serialization_schema(SimpleStringSchema())
            .build()
        )
        sink = KafkaSink.builder().set_bootstrap_servers(brokers).set_record_serializer(schema).build()
        flat.filter(keep).map(pick, Types.STRING()).sink_to(sink)
    job = flink.execute_async("prototype")
    return lambda: job.get_job_execution_result().result()


PASSES = {"ours": our_job, "raw": raw_to_raw, "loop": plain_loop, "prototype": prototype}


def main() -> None:
    mode, brokers, *topics = sys.argv[1:]
    os.environ["JAVA_HOME"] = str(java_home())
    os.environ.setdefault("JVM_ARGS", "-Xmx1g -XX:+UseSerialGC")
    os.environ.setdefault("FLINK_LOG_DIR", str(Path.cwd()))
    spent = {}
    for size, topic in (("warm", topics[0]), ("small", topics[0]), ("large", topics[1])):
        run = PASSES[mode](brokers, topic)
        before = cpu_s()
        run()
        spent[size] = cpu_s() - before
    print(json.dumps(spent))


if __name__ == "__main__":
    main()
