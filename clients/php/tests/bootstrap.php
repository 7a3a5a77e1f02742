<?php
/**
 * What the tests share: the doubles of Bitrix, a wire that answers what a test says, a clock that stands where it is put.
 */

use Integration\PaymentService\Http;
use Integration\PaymentService\Reply;
use PHPUnit\Framework\TestCase;

$_SERVER['DOCUMENT_ROOT'] = '/nowhere';
require __DIR__ . '/bitrix/modules/main/include/prolog_before.php';
require __DIR__ . '/../Integration/PaymentService/include.php';

/** The other side of the wire. */
class Wire extends Http
{
    /** @var Reply[] */
    public $replies = [];
    /** @var array<int, array> each request: method, url, headers, body (decoded) */
    public $requests = [];

    public function send(string $method, string $url, array $headers = [], ?string $body = null): Reply
    {
        $this->requests[] = ['method' => $method, 'url' => $url, 'headers' => $headers, 'body' => $body === null ? null : json_decode($body, true)];
        if ($this->replies === []) {
            throw new LogicException("Nobody foresaw $method $url");
        }

        return array_shift($this->replies);
    }

    /** @param mixed $body an array becomes JSON */
    public function willSay($body, int $status = 200, array $headers = []): self
    {
        $reply = new Reply();
        $reply->status = $status;
        $reply->body = is_array($body) ? json_encode($body) : $body;
        $reply->headers = $headers;
        $this->replies[] = $reply;

        return $this;
    }

    public function willSayNo(string $code, int $status, array $more = []): self
    {
        return $this->willSay($more + ['code' => $code, 'detail' => "It is $code.", 'status' => $status], $status);
    }

    public function willFail(bool $sent, bool $refused = false): self
    {
        $reply = new Reply();
        $reply->error = 'it broke (curl 0)';
        $reply->sent = $sent;
        $reply->refused = $refused;
        $this->replies[] = $reply;

        return $this;
    }
}

/** A test with a folder of its own, which is also the site's DOCUMENT_ROOT. */
abstract class SiteTest extends TestCase
{
    const KEY = 'ps_key-of-this-test-0123456789';
    const SHOP = 121038;
    const BIN = '920317450731';
    const TOKEN = '00121038-0000-4000-8000-000000000000';

    /** @var string the client's own folder */
    protected $folder;
    /** @var Wire */
    protected $wire;
    /** @var int */
    protected $now = 1795262400;

    protected function setUp(): void
    {
        $root = sys_get_temp_dir() . '/payment-service-' . bin2hex(random_bytes(6));
        mkdir($root, 0700);
        $_SERVER['DOCUMENT_ROOT'] = $root;
        $this->folder = $root . '/own';
        $this->wire = new Wire();
        ini_set('error_log', $root . '/php.log');
    }

    protected function tearDown(): void
    {
        $files = new RecursiveIteratorIterator(
            new RecursiveDirectoryIterator($_SERVER['DOCUMENT_ROOT'], FilesystemIterator::SKIP_DOTS),
            RecursiveIteratorIterator::CHILD_FIRST
        );
        foreach ($files as $file) {
            $file->isDir() ? rmdir((string) $file) : unlink((string) $file);
        }
        rmdir($_SERVER['DOCUMENT_ROOT']);
        $_SERVER['DOCUMENT_ROOT'] = '/nowhere';
    }

    protected function clock(): callable
    {
        return function (): int {
            return $this->now;
        };
    }

    /** An answer of GET /api/payment/config, signed as the service signs it. */
    protected function config(array $change = [], string $key = self::KEY): array
    {
        $config = $change + [
            'id' => 1,
            'shop_id' => self::SHOP,
            'organization_bin' => self::BIN,
            'device_token' => self::TOKEN,
            'is_active' => true,
            'provider' => 'kaspi',
            'name' => 'Eileen flowers',
            'valid_until' => gmdate('Y-m-d\TH:i:s\Z', $this->now + 3600),
        ];
        $said = [
            'payment-config', $config['shop_id'], $config['organization_bin'], $config['device_token'] ?? '',
            $config['is_active'] ? '1' : '0', $config['provider'], $config['valid_until'],
        ];

        return $config + ['signature' => hash_hmac('sha256', implode("\n", $said), $key)];
    }

    protected function log(): string
    {
        return (string) @file_get_contents($this->folder . '/kaspi_payment_service.log');
    }
}
