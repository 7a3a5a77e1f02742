<?php

namespace Integration\PaymentService;

/** Amounts: tenge as callers write them, whole tiyn inside (1 tenge = 100 tiyn), never a float in between. */
final class Amount
{
    const MAX_TIYN = 9999999999;

    /**
     * Whole tiyn of an amount in tenge: an int, a decimal text, or a float of at most two decimals.
     *
     * @param int|float|string $tenge
     * @throws BadRequest for anything else, and for nothing or less
     */
    public static function tiyn($tenge): int
    {
        $text = is_float($tenge) ? self::textOfFloat($tenge) : (is_int($tenge) || is_string($tenge) ? trim((string) $tenge) : '');
        if (!preg_match('/^0*(\d{1,8})(?:\.(\d{1,2})0*)?$/D', $text, $parts)) {
            throw new BadRequest('An amount is tenge, more than zero, with at most two decimals.');
        }
        $tiyn = (int) $parts[1] * 100 + (int) str_pad($parts[2] ?? '', 2, '0');
        if ($tiyn === 0) {
            throw new BadRequest('An amount is more than zero.');
        }

        return $tiyn;
    }

    /** Tenge as a decimal text: 1750050 tiyn are "17500.50". */
    public static function text(int $tiyn): string
    {
        return sprintf('%d.%02d', intdiv($tiyn, 100), $tiyn % 100);
    }

    /**
     * Tenge as a JSON number for Kaspi itself; Reply and Http encode it with its shortest digits.
     *
     * @return int|float
     */
    public static function number(int $tiyn)
    {
        return $tiyn % 100 === 0 ? intdiv($tiyn, 100) : $tiyn / 100;
    }

    private static function textOfFloat(float $tenge): string
    {
        $text = number_format($tenge, 2, '.', '');
        // 0.1 + 0.2 is 30 tiyn; 0.301 is a mistake. A float of this size is exact to far less than a thousandth.
        return is_finite($tenge) && abs($tenge - (float) $text) < 0.000001 ? $text : '';
    }
}
