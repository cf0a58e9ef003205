// node-redis (the package `redis`), plain and as a client of a cluster.
// usage: node node_redis.mjs plain|cluster URL; it exits with 0 if all is as it should be.
import assert from "node:assert/strict";
import { createClient, createCluster } from "redis";

const [, , kind, url] = process.argv;

async function plain() {
  const client = createClient({ url });
  client.on("error", (error) => console.error(error));
  await client.connect();
  assert.equal(await client.ping(), "PONG");

  // Pipelines: what is sent in one tick goes in one piece.
  const numbers = [...Array(300).keys()];
  await Promise.all(numbers.map((n) => client.set(`key:${n}`, `${n}`)));
  assert.deepEqual(
    await Promise.all(numbers.map((n) => client.get(`key:${n}`))),
    numbers.map(String),
  );

  // Transactions.
  const answers = await client.multi().set("{t}a", "1").incr("{t}a").get("{t}a").exec();
  assert.deepEqual(answers, ["OK", 2, "2"]);
  const other = client.duplicate();
  await other.connect();
  await client.watch("watched");
  await other.set("watched", "changed");
  await assert.rejects(client.multi().set("watched", "mine").exec());

  // Scripts.
  assert.equal(
    await client.eval("return redis.call('GET', KEYS[1]) .. ARGV[1]", {
      keys: ["watched"],
      arguments: ["!"],
    }),
    "changed!",
  );
  const sha = await client.scriptLoad("return tonumber(ARGV[1]) * 2");
  assert.equal(await client.evalSha(sha, { arguments: ["21"] }), 42);

  // Channels.
  const subscriber = client.duplicate();
  await subscriber.connect();
  const heard = [];
  const all = new Promise((resolve) => {
    const note = (message, channel) => heard.push([channel, message]) === 2 && resolve();
    subscriber.subscribe("news", note).then(() => subscriber.pSubscribe("we*", note)).then(async () => {
      assert.equal(await client.publish("news", "first"), 1);
      assert.equal(await client.publish("weather", "second"), 1);
    });
  });
  await all;
  assert.deepEqual(heard.sort(), [["news", "first"], ["weather", "second"]]);
  await subscriber.unsubscribe("news");

  // Blocking.
  const waiting = other.blPop("queue", 10);
  await client.rPush("queue", "element");
  assert.deepEqual({ ...(await waiting) }, { key: "queue", element: "element" });
  const stream = other.xRead({ key: "stream", id: "$" }, { BLOCK: 10000 });
  await new Promise((resolve) => setTimeout(resolve, 100));
  await client.xAdd("stream", "*", { field: "value" });
  assert.equal((await stream)[0].messages[0].message.field, "value");

  // Iteration, and values of every type.
  const found = new Set();
  for await (const keys of client.scanIterator({ MATCH: "key:*", COUNT: 20 })) {
    for (const key of [keys].flat()) found.add(key);
  }
  assert.equal(found.size, 300);
  await client.hSet("hash", { a: "1", b: "2" });
  assert.deepEqual({ ...(await client.hGetAll("hash")) }, { a: "1", b: "2" });
  await client.zAdd("zset", [{ score: 1, value: "a" }, { score: 2.5, value: "b" }]);
  assert.deepEqual(
    (await client.zRangeWithScores("zset", 0, -1)).map((m) => [m.value, m.score]),
    [["a", 1], ["b", 2.5]],
  );
  await client.sAdd("set", ["x", "y"]);
  assert.deepEqual([...(await client.sMembers("set"))].sort(), ["x", "y"]);
  for (const each of [client, other, subscriber]) await each.close();
}

async function cluster() {
  const client = createCluster({ rootNodes: [{ url }], defaults: credentials() });
  client.on("error", (error) => console.error(error));
  await client.connect();
  const numbers = [...Array(200).keys()];
  await Promise.all(numbers.map((n) => client.set(`key:${n}`, `${n}`)));
  assert.deepEqual(
    await Promise.all(numbers.map((n) => client.get(`key:${n}`))),
    numbers.map(String),
  );
  const answers = await client.multi().set("{t}a", "1").incr("{t}a").exec();
  assert.deepEqual(answers, ["OK", 2]);
  assert.equal(
    await client.eval("return redis.call('GET', KEYS[1])", { keys: ["{t}a"] }),
    "2",
  );
  await client.rPush("queue", "element");
  assert.equal((await client.blPop("queue", 10)).element, "element");
  await new Promise((resolve, reject) => {
    client
      .sSubscribe("channel", (message) => (message === "message" ? resolve() : reject(message)))
      .then(() => client.sPublish("channel", "message"));
  });
  await client.destroy();
}

// Nodes that are found later need the job's name and token as well.
function credentials() {
  const { username, password } = new URL(url);
  return username ? { username, password } : {};
}

await (kind === "plain" ? plain() : cluster());
console.log("done");
process.exit(0);
