<?php

use Integration\PaymentService\Bytes;
use PHPUnit\Framework\TestCase;

final class BytesTest extends TestCase
{
    public function testSizeIsInBytes(): void
    {
        $this->assertSame(10, Bytes::in('Букет'));
        $this->assertSame(0, Bytes::in(''));
        $this->assertSame(3, Bytes::in("\xFF\x00a"));
    }

    /** strlen() counts characters where mbstring.func_overload is on: then a reply would be cut, or a file called too short. */
    public function testNoSizeIsCountedInCharacters(): void
    {
        foreach (['Http', 'Files', 'WebhookReceiver'] as $name) {
            $code = file_get_contents(__DIR__ . "/../Integration/PaymentService/$name.php");
            $this->assertSame(0, preg_match('/(?<![\w:])strlen\(/', $code), $name);
        }
    }
}
