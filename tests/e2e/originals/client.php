<?php

/*
 * The requests of the original Bitrix client, rebuilt from docs/contract.md: its code is not in this repository. It asks
 * for the routing of a shop, and reports what it did with Kaspi itself. Prints one JSON line for each request.
 *
 *     php client.php URL KEY
 */

[, $url, $key] = $argv;

function ask(string $what, string $method, string $path, ?array $body, ?string $key): void
{
    global $url;
    $headers = ['Content-Type: application/json', 'Accept: application/json'];
    if ($key !== null) {
        $headers[] = 'X-API-Key: ' . $key;
    }
    $curl = curl_init($url . $path);
    curl_setopt_array($curl, [
        CURLOPT_CUSTOMREQUEST => $method,
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 10,
        CURLOPT_HTTPHEADER => $headers,
        CURLOPT_PROXY => '',
    ]);
    if ($body !== null) {
        curl_setopt($curl, CURLOPT_POSTFIELDS, json_encode($body));
    }
    $answer = json_decode((string) curl_exec($curl), true);
    $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
    echo json_encode(['what' => $what, 'request' => "$method $path", 'status' => $status, 'answer' => $answer]), "\n";
}

$config = '/api/payment/config?shop_id=';
$report = ['shop_id' => 121038, 'organization_bin' => '920317450731', 'operation_type' => 'create', 'provider' => 'kaspi'];
$done = ['external_id' => 12737065473, 'amount' => '1750000', 'status' => 'Wait', 'error_message' => null];

ask('routing of a shop', 'GET', $config . '121038', null, $key);
ask('a shop that is not there', 'GET', $config . '999999', null, $key);
ask('without its key', 'GET', $config . '121038', null, null);
ask('before Kaspi has answered', 'POST', '/api/payment/log', $report + ['external_id' => null, 'amount' => null], $key);
ask('after Kaspi has answered', 'POST', '/api/payment/log', $report + $done, $key);
ask('an amount that is no whole tiyn', 'POST', '/api/payment/log', $report + ['amount' => 1750000.5], $key);
ask('a status that it saw', 'PATCH', '/api/payment/status', [
    'shop_id' => 121038, 'external_id' => '12737065473', 'status' => 'Processed',
], $key);
