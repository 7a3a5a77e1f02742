<?php

namespace Integration\PaymentService;

/** Sizes in bytes, also where the setting mbstring.func_overload of PHP 7.4 makes strlen() count characters. */
final class Bytes
{
    public static function in(string $text): int
    {
        return function_exists('mb_strlen') ? mb_strlen($text, '8bit') : strlen($text);
    }
}
