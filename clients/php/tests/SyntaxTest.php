<?php

use PHPUnit\Framework\TestCase;

/**
 * The files run on PHP 7.4: they use no syntax and no function that came later.
 *
 * PHP 8's own tokens tell new syntax apart. The check errs on the strict side: it is of these files, and no general linter.
 */
final class SyntaxTest extends TestCase
{
    const NEW_TOKENS = ['T_MATCH', 'T_ENUM', 'T_READONLY', 'T_NULLSAFE_OBJECT_OPERATOR', 'T_ATTRIBUTE',
        'T_AMPERSAND_FOLLOWED_BY_VAR_OR_VARARG_IN_TYPE'];
    const NEW_TYPES = ['mixed', 'never', 'static', 'false', 'true', 'null'];
    /** Functions and classes of PHP 8.0 to 8.3, and one that its own manual calls a trap. */
    const NEW_NAMES = [
        'str_contains', 'str_starts_with', 'str_ends_with', 'get_debug_type', 'get_resource_id', 'fdiv', 'preg_last_error_msg',
        'array_is_list', 'fsync', 'fdatasync', 'array_find', 'json_validate', 'mb_str_pad', 'curl_upkeep', 'ini_parse_quantity',
        'openssl_cipher_key_length', 'memory_reset_peak_usage', 'stream_context_set_options', 'str_increment', 'str_decrement', 'enum_exists',
        'weakmap', 'stringable', 'valueerror', 'unhandledmatcherror', 'fiber', 'phptoken', 'allowdynamicproperties', 'override', 'random\randomizer',
        'curl_close',
    ];

    /** @dataProvider files */
    public function testFileUsesNothingThatPhp74DoesNotKnow(string $path): void
    {
        $this->assertSame([], self::newer((string) file_get_contents($path)));
    }

    public function files(): array
    {
        $cases = [];
        foreach (['Integration', 'sale_payment'] as $folder) {
            $files = new RecursiveDirectoryIterator(__DIR__ . '/../' . $folder, FilesystemIterator::SKIP_DOTS);
            foreach (new RecursiveIteratorIterator($files) as $path => $file) {
                $cases[substr($path, strlen(__DIR__) + 4)] = [$path];
            }
        }

        return $cases;
    }

    /** @dataProvider newerCode */
    public function testCheckSeesWhatIsNewer(string $code): void
    {
        $this->assertNotSame([], self::newer('<?php ' . $code));
    }

    public function newerCode(): array
    {
        return array_map(static function ($code) {
            return [$code];
        }, [
            'match' => '$a = match ($b) { 1 => 2 };',
            'nullsafe' => '$a?->b;',
            'named argument' => 'f(a: 1);',
            'second named argument' => 'f($x ? 1 : 2, b: 1);',
            'promotion' => 'class A { public function __construct(private $b) {} }',
            'union type of a parameter' => 'function f(int|string $a) {}',
            'union type of a return' => 'function f(): int|string {}',
            'union type of a property' => 'class A { private int|string $a; }',
            'intersection type' => 'function f(A&B $a) {}',
            'enum' => 'enum A { case B; }',
            'readonly' => 'class A { public readonly int $b; }',
            'attribute' => '#[A] function f() {}',
            'trailing comma in parameters' => 'function f($a, ) {}',
            'trailing comma in use' => '$f = function () use ($a, ) {};',
            'mixed' => 'function f(mixed $a) {}',
            'static as a return type' => 'class A { function f(): static {} }',
            'never' => 'function f(): never {}',
            'throw as an expression' => '$a = $b ?? throw new E();',
            'throw in a short function' => '$a = fn () => throw new E();',
            'catch without a variable' => 'try { f(); } catch (E) {}',
            'class of an object' => '$a::class;',
            'first-class callable' => '$a = strlen(...);',
            'new function' => 'str_contains($a, $b);',
            'new class' => 'new WeakMap();',
            'new in a default' => 'function f($a = new A()) {}',
            'octal' => '$a = 0o17;',
            'typed constant' => 'class A { const int B = 1; }',
            'constant by a variable' => 'A::{$b};',
        ]);
    }

    /** @dataProvider olderCode */
    public function testCheckLetsPassWhatPhp74Knows(string $code): void
    {
        $this->assertSame([], self::newer('<?php ' . $code));
    }

    public function olderCode(): array
    {
        return array_map(static function ($code) {
            return [$code];
        }, [
            'f($a ? B : C); $a = $b ? c($d) : e($f);',
            'switch ($a) { case B: f(C); break; default: g(); }',
            'try { f(); } catch (A | B $e) { throw $e; }',
            'class A { private ?int $a = null; public function __construct(?string $b = null) {} }',
            '$a = fn (int $b): ?int => $b; f($a, $b, );',
            'function f(int &$a, ...$b): array { return [$a, ...$b]; }',
            'A::class; $a = static function () use (&$b): void { static $c; return; };',
            'if ($a & $b) { f($a | $b); } $x = ["a" => null, "b" => false];',
            'class A { const B = 1; private static $c; private const D = 2; }',
        ]);
    }

    /** @return string[] what is newer than PHP 7.4, with its line */
    private static function newer(string $code): array
    {
        $tokens = array_values(array_filter(PhpToken::tokenize($code), static function (PhpToken $token) {
            return !$token->isIgnorable() || $token->is(T_OPEN_TAG);
        }));
        $found = [];
        foreach ($tokens as $i => $token) {
            $why = self::whyNewer($tokens, $i);
            if ($why !== null) {
                $found[] = "line {$token->line}: $why";
            }
        }

        return $found;
    }

    private static function whyNewer(array $tokens, int $i): ?string
    {
        $token = $tokens[$i];
        $before = $tokens[$i - 1] ?? $tokens[0];
        $after = $tokens[$i + 1] ?? end($tokens);
        if (in_array($token->getTokenName(), self::NEW_TOKENS, true)) {
            return $token->text;
        }
        if ($token->is([T_STRING, T_NAME_FULLY_QUALIFIED, T_NAME_QUALIFIED]) && !$before->is([T_OBJECT_OPERATOR, T_DOUBLE_COLON, T_FUNCTION])
            && in_array(strtolower(ltrim($token->text, '\\')), self::NEW_NAMES, true)) {
            return $token->text;
        }
        if ($token->is(T_STRING) && $after->is(':') && $before->is(['(', ','])) {
            return 'named argument';
        }
        if ($token->is(T_THROW) && !$before->is([';', '{', '}', ':', T_OPEN_TAG, ')', T_ELSE])) {
            return 'throw as an expression';
        }
        if ($token->is(T_CLASS) && $before->is(T_DOUBLE_COLON) && $tokens[$i - 2]->is([T_VARIABLE, ')', ']'])) {
            return '::class of an object';
        }
        if ($token->is(T_ELLIPSIS) && $after->is(')')) {
            return 'first-class callable';
        }
        if ($token->is(T_LNUMBER) && stripos($token->text, '0o') === 0) {
            return 'octal';
        }
        if ($token->is(T_CONST) && $tokens[$i + 2]->is(T_STRING)) {
            return 'typed constant';
        }
        if ($token->is('{') && $before->is(T_DOUBLE_COLON)) {
            return 'constant by a variable';
        }
        if ($token->is(T_CATCH)) {
            return $tokens[self::closing($tokens, $i + 1) - 1]->is(T_VARIABLE) ? null : 'catch without a variable';
        }
        if ($token->is([T_PUBLIC, T_PROTECTED, T_PRIVATE, T_STATIC, T_VAR])) {
            return $after->is([T_STATIC, T_PUBLIC, T_PROTECTED, T_PRIVATE]) ? null : self::typeProblem($tokens, $i + 1);
        }
        if ($token->is([T_FUNCTION, T_FN])) {
            return self::signatureProblem($tokens, $i);
        }

        return null;
    }

    private static function signatureProblem(array $tokens, int $i): ?string
    {
        while (!$tokens[$i]->is('(')) {
            ++$i;
        }
        $end = self::closing($tokens, $i);
        if ($tokens[$end - 1]->is(',')) {
            return 'trailing comma in parameters';
        }
        for ($j = $i + 1; $j < $end; ++$j) {
            if ($tokens[$j]->is([T_PUBLIC, T_PROTECTED, T_PRIVATE])) {
                return 'constructor promotion';
            }
            if ($tokens[$j]->is(T_NEW)) {
                return 'new in a default';
            }
            if ($tokens[$j - 1]->is(['(', ',']) && ($problem = self::typeProblem($tokens, $j)) !== null) {
                return $problem;
            }
        }
        if ($tokens[$end + 1]->is(T_USE)) {
            $end = self::closing($tokens, $end + 2);
            if ($tokens[$end - 1]->is(',')) {
                return 'trailing comma in use';
            }
        }

        return $tokens[$end + 1]->is(':') ? self::typeProblem($tokens, $end + 2) : null;
    }

    /** What is wrong with the type that begins here, if one does. */
    private static function typeProblem(array $tokens, int $i): ?string
    {
        for (; isset($tokens[$i]); ++$i) {
            if ($tokens[$i]->is(['|']) || $tokens[$i]->getTokenName() === 'T_AMPERSAND_NOT_FOLLOWED_BY_VAR_OR_VARARG') {
                return 'union or intersection type';
            }
            if (in_array(strtolower($tokens[$i]->text), self::NEW_TYPES, true)) {
                return $tokens[$i]->text . ' as a type';
            }
            if (!$tokens[$i]->is(['?', T_STRING, T_ARRAY, T_CALLABLE, T_NAME_QUALIFIED, T_NAME_FULLY_QUALIFIED])) {
                return null;
            }
        }

        return null;
    }

    /** Where the bracket that opens here is closed. */
    private static function closing(array $tokens, int $i): int
    {
        for ($depth = 0; isset($tokens[$i]); ++$i) {
            $depth += $tokens[$i]->is(['(', '[', '{', T_CURLY_OPEN]) ? 1 : ($tokens[$i]->is([')', ']', '}']) ? -1 : 0);
            if ($depth === 0) {
                return $i;
            }
        }
        throw new LogicException('a bracket is never closed');
    }
}
