<?php

use Integration\PaymentService\Http;
use PHPUnit\Framework\TestCase;

/** What a call may claim of what left this machine, on real sockets. */
final class HttpTest extends TestCase
{
    public function testRefusedConnectionIsSurelyNotSentAndMayBeTriedAtOnce(): void
    {
        list($server, $port) = $this->listen();
        fclose($server);
        $reply = (new Http())->send('POST', "http://127.0.0.1:$port/", [], '{}');
        $this->assertSame([false, true, 0], [$reply->sent, $reply->refused, $reply->status]);
    }

    public function testCallThatIsNeverAnsweredMayHaveBeenDone(): void
    {
        list($server, $port) = $this->listen();
        $reply = (new Http(0.2, 0.2))->send('POST', "http://127.0.0.1:$port/", [], '{}');
        $this->assertSame([true, false, 0], [$reply->sent, $reply->refused, $reply->status]);
        fclose($server);
    }

    public function testHandshakeThatNeverEndsIsSurelyNotSent(): void
    {
        list($server, $port) = $this->listen();
        $reply = (new Http(0.2, 0.4))->send('POST', "https://127.0.0.1:$port/", [], '{}');
        $this->assertSame([false, false, 0], [$reply->sent, $reply->refused, $reply->status]);
        fclose($server);
    }

    public function testCertificateFileThatIsNoneIsSurelyNotSent(): void
    {
        list($server, $port) = $this->listen();
        $reply = (new Http(0.2, 0.4, ['certificate' => __FILE__, 'key' => __FILE__]))->send('POST', "https://127.0.0.1:$port/", [], '{}');
        $this->assertFalse($reply->sent);
        $this->assertStringNotContainsString(__FILE__, $reply->error);
        fclose($server);
    }

    private function listen(): array
    {
        $server = stream_socket_server('tcp://127.0.0.1:0');

        return [$server, (int) substr(strrchr(stream_socket_get_name($server, false), ':'), 1)];
    }
}
