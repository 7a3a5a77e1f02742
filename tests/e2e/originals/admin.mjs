// The functions of the original React admin page, rebuilt from docs/contract.md: its code is not in this repository. It
// lists, adds, changes and deletes the routing of shops, and shows the log. Prints one JSON line for each request.
//
//     node admin.mjs URL KEY BIN

const [url, key, bin] = process.argv.slice(2);

async function ask(what, method, path, body) {
  const response = await fetch(url + path, {
    method,
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer = await response.json();
  console.log(JSON.stringify({ what, request: `${method} ${path}`, status: response.status, answer }));
  return answer;
}

const configs = "/admin/configs";
const fetchConfigs = () => ask("the list", "GET", configs);
const createConfig = (what, config) => ask(what, "POST", configs, config);
const updateConfig = (what, config) => ask(what, "PUT", `${configs}/${config.shop_id}`, config);
const deleteConfig = (config) => ask("a shop switched off", "DELETE", `${configs}/${config.id}`);
const fetchLogs = () => ask("the log", "GET", "/admin/logs?shop_id=121038&limit=100");

const shop = { shop_id: 900009, organization_bin: bin, device_token: "your-device-token-uuid", is_active: true };
await fetchConfigs();
await createConfig("a new shop", shop);
await createConfig("the same once more", shop);
await createConfig("a BIN with a wrong digit", { ...shop, shop_id: 900010, organization_bin: "920317450732" });
const row = (await fetchConfigs()).find((config) => config.shop_id === shop.shop_id);
await updateConfig("the whole row back, changed", { ...row, description: "Changed on the page" });
await updateConfig("a row that somebody changed meanwhile", { ...row, description: "Changed on an old page" });
await deleteConfig(row);
await fetchLogs();
