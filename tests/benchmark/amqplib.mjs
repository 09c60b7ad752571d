// The yardstick of `publish`: a confirm channel of amqplib with a window of unconfirmed messages, fed from memory.
//   node amqplib.mjs '{"url":…,"exchange":…,"queue":…,"routingKey":…,"messages":…,"window":…,"body":…}'
// Prints {"seconds":…,"cpu_seconds":…} when the last message is confirmed.
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";

const amqp = createRequire(process.env.BENCHMARK_MODULES + "/")("amqplib");
const wanted = JSON.parse(process.argv[2]);
const connection = await amqp.connect(wanted.url);
const channel = await connection.createConfirmChannel();
await channel.assertExchange(wanted.exchange, "topic", { durable: true });
await channel.assertQueue(wanted.queue, { durable: true, arguments: { "x-queue-type": "quorum" } });
await channel.bindQueue(wanted.queue, wanted.exchange, "#");

const body = Buffer.from(wanted.body);
const messages = Array.from({ length: wanted.messages }, () => {
  const messageId = randomUUID();
  return {
    persistent: true, mandatory: true, contentType: "application/cloudevents+json", contentEncoding: "utf-8",
    messageId, timestamp: Math.floor(Date.now() / 1000), type: "pbx.account.changed", appId: "benchmark",
    headers: { "x-deduplication-header": messageId },
  };
});

const busy = process.cpuUsage();
const began = process.hrtime.bigint();
let sent = 0, confirmed = 0;
await new Promise((resolve, reject) => {
  const fill = () => {
    while (sent < wanted.messages && sent - confirmed < wanted.window) {
      channel.publish(wanted.exchange, wanted.routingKey, body, messages[sent++], (problem) => {
        if (problem) return reject(problem);
        confirmed += 1;
        if (confirmed === wanted.messages) resolve(); else fill();
      });
    }
  };
  fill();
});
const seconds = Number(process.hrtime.bigint() - began) / 1e9;
const { user, system } = process.cpuUsage(busy);
console.log(JSON.stringify({ seconds, cpu_seconds: (user + system) / 1e6 }));
await connection.close();
