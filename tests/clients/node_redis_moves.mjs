// node-redis as a client of a cluster whose slots move: it is told, and follows without a redirect.
// usage: node node_redis_moves.mjs URL; when it is "ready" it answers what it is asked, line by line.
import assert from "node:assert/strict";
import { subscribe } from "node:diagnostics_channel";
import { createInterface } from "node:readline";
import { createCluster } from "redis";

const url = process.argv[2];
const { username, password } = new URL(url);
const told = [];
subscribe("redis.maintenance", (event) => told.push(event.type));

const client = createCluster({
  rootNodes: [{ url }],
  defaults: { username, password, maintNotifications: "enabled" },
});
client.on("error", (error) => console.error(error));
await client.connect();
const keys = [...Array(200).keys()].map((n) => `key:${n}`);
await Promise.all(keys.map((key) => client.set(key, key)));

// It uses the keys all the time, but when it is asked to be still.
let isStill = false;
let rounds = 0;
const using = (async () => {
  while (!isStill) {
    const values = await Promise.all(keys.map((key) => client.get(key)));
    assert.deepEqual(values, keys);
    await Promise.all(keys.slice(0, 20).map((key) => client.set(key, key)));
    rounds += 1;
  }
})();

// Who has the slots, as it knows by itself, without asking anybody now.
function owners() {
  return client.slots.map((shard) => shard.master.port).join(",");
}

const lines = createInterface({ input: process.stdin });
console.log("ready");
for await (const line of lines) {
  if (line === "still") {
    isStill = true;
    await using;
    assert.ok(rounds > 0);
    console.log(rounds);
  } else if (line === "owners") {
    console.log(owners());
  } else if (line === "told") {
    console.log(told.join(","));
  } else if (line === "look") {
    assert.deepEqual(await Promise.all(keys.map((key) => client.get(key))), keys);
    console.log("found");
  } else {
    break;
  }
}
process.exit(0);
