<?php

namespace Integration\PaymentService;

/**
 * One HTTP call with curl: verified TLS, no redirects, no hidden second try.
 *
 * curl itself repeats a request when a kept connection turns out to be closed, and some proxies do too. So every call has
 * a connection of its own, HTTP/1.1, and no proxy.
 */
class Http
{
    const MAX_REPLY_BYTES = 1048576;
    /** No try begins later than this after the first one, in seconds: a buyer is waiting. */
    const TRIES_BEGIN_WITHIN_S = 5.0;

    private $connectTimeoutS;
    private $totalTimeoutS;
    private $tls;

    /** @param array $tls files for curl: ca_file, certificate, key, and key_password */
    public function __construct(float $connectTimeoutS = 3.0, float $totalTimeoutS = 10.0, array $tls = [])
    {
        $this->connectTimeoutS = $connectTimeoutS;
        $this->totalTimeoutS = $totalTimeoutS;
        $this->tls = $tls;
    }

    /** @param array<string, string> $headers */
    public function send(string $method, string $url, array $headers = [], ?string $body = null): Reply
    {
        $reply = new Reply();
        $curl = curl_init();
        // "Expect:" keeps curl from waiting for a permission to send the body.
        $lines = ['Expect:'];
        foreach ($headers as $name => $value) {
            $lines[] = $name . ': ' . $value;
        }
        curl_setopt_array($curl, [
            CURLOPT_URL => $url,
            CURLOPT_CUSTOMREQUEST => $method,
            CURLOPT_HTTPHEADER => $lines,
            CURLOPT_CONNECTTIMEOUT_MS => (int) ($this->connectTimeoutS * 1000),
            CURLOPT_TIMEOUT_MS => (int) ($this->totalTimeoutS * 1000),
            CURLOPT_NOSIGNAL => true,
            CURLOPT_SSL_VERIFYPEER => true,
            CURLOPT_SSL_VERIFYHOST => 2,
            CURLOPT_FOLLOWLOCATION => false,
            CURLOPT_PROTOCOLS => CURLPROTO_HTTP | CURLPROTO_HTTPS,
            CURLOPT_HTTP_VERSION => CURL_HTTP_VERSION_1_1,
            CURLOPT_FRESH_CONNECT => true,
            CURLOPT_FORBID_REUSE => true,
            CURLOPT_NOPROXY => '*',
            CURLOPT_HEADERFUNCTION => function ($curl, $line) use ($reply) {
                $parts = explode(':', $line, 2);
                if (count($parts) === 2) {
                    $reply->headers[strtolower(trim($parts[0]))] = trim($parts[1]);
                }

                return Bytes::in($line);
            },
            CURLOPT_WRITEFUNCTION => function ($curl, $part) use ($reply) {
                $reply->body .= $part;

                return Bytes::in($reply->body) <= self::MAX_REPLY_BYTES ? Bytes::in($part) : 0;
            },
        ]);
        if ($body !== null) {
            curl_setopt($curl, CURLOPT_POSTFIELDS, $body);
        }
        $this->present($curl);
        curl_exec($curl);

        $reply->ip = (string) curl_getinfo($curl, CURLINFO_PRIMARY_IP);
        $number = curl_errno($curl);
        if ($number === 0) {
            $reply->status = (int) curl_getinfo($curl, CURLINFO_HTTP_CODE);

            return $reply;
        }
        $reply->error = curl_strerror($number) . ' (curl ' . $number . ')';
        $reply->sent = curl_getinfo($curl, CURLINFO_REQUEST_SIZE) > 0 || curl_getinfo($curl, CURLINFO_PRETRANSFER_TIME) > 0;
        $reply->refused = !$reply->sent && $number === CURLE_COULDNT_CONNECT;

        return $reply;
    }

    /**
     * The same, and again after each pause as long as the reply says that it may be.
     *
     * @param float[] $pausesS seconds before the second try, the third ...
     * @param callable $mayAgain takes the Reply
     */
    public function sendAgainWhile(callable $mayAgain, array $pausesS, string $method, string $url, array $headers, ?string $body): Reply
    {
        $began = microtime(true);
        $reply = $this->send($method, $url, $headers, $body);
        foreach ($pausesS as $pause) {
            if (!$mayAgain($reply) || microtime(true) + $pause - $began > self::TRIES_BEGIN_WITHIN_S) {
                break;
            }
            usleep((int) ($pause * 1000000));
            $reply = $this->send($method, $url, $headers, $body);
        }

        return $reply;
    }

    /** JSON with every number in its shortest digits, whatever php.ini says. */
    public static function encode(array $body): string
    {
        $before = ini_set('serialize_precision', '-1');
        $text = json_encode($body, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE);
        if ($before !== false) {
            ini_set('serialize_precision', $before);
        }
        if ($text === false) {
            throw new BadRequest('The request cannot be written as JSON: ' . json_last_error_msg() . '.');
        }

        return $text;
    }

    /** Our own certificate, and whose word we take for the other side's. */
    private function present($curl): void
    {
        $options = [
            'ca_file' => CURLOPT_CAINFO,
            'certificate' => CURLOPT_SSLCERT,
            'key' => CURLOPT_SSLKEY,
            'key_password' => CURLOPT_KEYPASSWD,
        ];
        foreach ($options as $name => $option) {
            if (($this->tls[$name] ?? '') !== '') {
                curl_setopt($curl, $option, $this->tls[$name]);
            }
        }
    }
}
