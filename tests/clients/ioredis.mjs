// ioredis, plain and as a client of a cluster.
// usage: node ioredis.mjs plain|cluster URL; it exits with 0 if all is as it should be.
import assert from "node:assert/strict";
import { Cluster, Redis } from "ioredis";

const [, , kind, url] = process.argv;

async function plain() {
  const client = new Redis(url);
  assert.equal(await client.ping(), "PONG");

  // Pipelines.
  const pipeline = client.pipeline();
  for (let n = 0; n < 300; n++) pipeline.set(`key:${n}`, n).incr(`key:${n}`);
  const piped = await pipeline.exec();
  assert.equal(piped.length, 600);
  assert.deepEqual(piped[599], [null, 300]);

  // Transactions.
  const answers = await client.multi().set("{t}a", 1).incr("{t}a").exec();
  assert.deepEqual(answers, [[null, "OK"], [null, 2]]);
  const other = client.duplicate();
  await client.watch("watched");
  await other.set("watched", "changed");
  assert.equal(await client.multi().set("watched", "mine").exec(), null);

  // Scripts, by their digest if it is known.
  client.defineCommand("doubled", { numberOfKeys: 1, lua: "return redis.call('GET', KEYS[1]) * 2" });
  await client.set("number", 21);
  assert.equal(await client.doubled("number"), 42);
  assert.equal(await client.doubled("number"), 42);

  // Channels.
  const subscriber = client.duplicate();
  const heard = [];
  await subscriber.subscribe("news");
  await subscriber.psubscribe("we*");
  const all = new Promise((resolve) => {
    subscriber.on("message", (channel, message) => heard.push([channel, message]) === 2 && resolve());
    subscriber.on("pmessage", (_, channel, message) => heard.push([channel, message]) === 2 && resolve());
  });
  assert.equal(await client.publish("news", "first"), 1);
  assert.equal(await client.publish("weather", "second"), 1);
  await all;
  assert.deepEqual(heard.sort(), [["news", "first"], ["weather", "second"]]);

  // Blocking.
  const waiting = other.blpop("queue", 10);
  await client.rpush("queue", "element");
  assert.deepEqual(await waiting, ["queue", "element"]);
  const best = other.bzpopmax("scores", 10);
  await client.zadd("scores", 1, "a", 2, "b");
  assert.deepEqual((await best).slice(0, 2), ["scores", "b"]);

  // Iteration.
  const found = new Set();
  for await (const keys of client.scanStream({ match: "key:*", count: 20 })) {
    for (const key of keys) found.add(key);
  }
  assert.equal(found.size, 300);
  await client.hset("hash", { a: 1, b: 2 });
  assert.deepEqual({ ...(await client.hgetall("hash")) }, { a: "1", b: "2" });
  await client.sadd("set", "x", "y");
  assert.deepEqual((await client.smembers("set")).sort(), ["x", "y"]);
  for (const each of [client, other, subscriber]) await each.quit();
}

async function cluster() {
  const { hostname, port, username, password } = new URL(url);
  const client = new Cluster([{ host: hostname, port: Number(port) }], {
    redisOptions: username ? { username, password } : {},
  });
  const numbers = [...Array(200).keys()];
  await Promise.all(numbers.map((n) => client.set(`key:${n}`, n)));
  assert.deepEqual(
    await Promise.all(numbers.map((n) => client.get(`key:${n}`))),
    numbers.map(String),
  );
  const answers = await client.multi().set("{t}a", 1).incr("{t}a").exec();
  assert.deepEqual(answers, [[null, "OK"], [null, 2]]);
  assert.equal(await client.eval("return redis.call('GET', KEYS[1])", 1, "{t}a"), "2");
  await client.rpush("queue", "element");
  assert.deepEqual(await client.blpop("queue", 10), ["queue", "element"]);
  const keys = [];
  for (const node of client.nodes("master")) keys.push(...(await node.keys("key:*")));
  assert.equal(new Set(keys).size, 200);
  client.disconnect();
}

await (kind === "plain" ? plain() : cluster());
console.log("done");
process.exit(0);
