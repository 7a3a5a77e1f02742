<?php

namespace Integration\PaymentService;

/** The client's own folder: whole files or none, readable by the site's user only. */
final class Files
{
    /** Of PHP 8.1. With an older one a machine that loses its power may leave an empty file. */
    const SYNC = 'fsync';

    /** Whether the folder is there, or could be made. */
    public static function ready(string $folder): bool
    {
        return (@is_dir($folder) || @mkdir($folder, 0700, true) || @is_dir($folder)) && is_writable($folder);
    }

    /** Whether a folder is another user's: what this one writes there, the site could neither read nor lock. */
    public static function isOfAnotherUser(string $folder): bool
    {
        return function_exists('posix_geteuid') && is_dir($folder) && fileowner($folder) !== posix_geteuid();
    }

    /** Write a file in one step, so that no reader ever sees half of it. */
    public static function write(string $path, string $text): bool
    {
        if (!self::ready(dirname($path))) {
            return false;
        }
        $draft = $path . '.' . bin2hex(random_bytes(6)) . '.new';
        $file = @fopen($draft, 'xb');
        if ($file === false) {
            return false;
        }
        chmod($draft, 0600);
        $written = fwrite($file, $text) === Bytes::in($text) && fflush($file)
            && (!function_exists(self::SYNC) || call_user_func(self::SYNC, $file));
        fclose($file);
        if ($written && rename($draft, $path)) {
            return true;
        }
        @unlink($draft);

        return false;
    }

    /** What a JSON file holds; null when it is not there or holds no object. */
    public static function json(string $path): ?array
    {
        $text = is_file($path) ? @file_get_contents($path) : false;
        $found = $text === false ? null : json_decode($text, true);

        return is_array($found) ? $found : null;
    }

    /** The lock of one of many things in a folder: 256 files serve them all. */
    public static function lockOf(string $folder, string $words): string
    {
        return $folder . '/' . substr(hash('sha256', $words), 0, 2) . '.lock';
    }

    /**
     * Run something while no other process does; null, without running it, when another one does and we do not wait.
     *
     * @return mixed what it returned
     */
    public static function locked(string $path, bool $wait, callable $work)
    {
        $lock = self::ready(dirname($path)) ? @fopen($path, 'c') : false;
        if ($lock === false || !flock($lock, $wait ? LOCK_EX : LOCK_EX | LOCK_NB)) {
            return null;
        }
        try {
            return $work();
        } finally {
            flock($lock, LOCK_UN);
            fclose($lock);
        }
    }
}
