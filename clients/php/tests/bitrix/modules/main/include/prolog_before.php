<?php
/**
 * Doubles of the few Bitrix classes that the client uses. They behave as Bitrix's do where the client depends on it, and
 * throw where it would be wrong to call them. State lies in JSON files below DOCUMENT_ROOT/bitrix.
 *
 * Names, parameters and the order of what happens are those of the modules main and sale in the public copy
 * github.com/avshatalov48/bitrix-core-business, commit 062176233123005075b96c6d2b3c79358dee3fbf.
 */

namespace Bitrix\Main\Config {
    class Option
    {
        public static function get($moduleId, $name, $default = '', $siteId = false)
        {
            $options = \BitrixDouble::read('options.json');

            return $options[$moduleId][$name] ?? $default;
        }

        public static function set($moduleId, $name, $value = '', $siteId = '')
        {
            $options = \BitrixDouble::read('options.json');
            $options[$moduleId][$name] = $value;
            \BitrixDouble::write('options.json', $options);
        }
    }
}

namespace Bitrix\Main\Data {
    class Cache
    {
        public static $now = 'time';
        private $open;
        private $vars;

        public static function createInstance()
        {
            return new self();
        }

        public function initCache($ttl, $uniqueString, $initDir = false, $baseDir = 'cache')
        {
            $kept = \BitrixDouble::read(self::path($uniqueString, $initDir));
            if ($kept === [] || $kept['made'] + $ttl <= (self::$now)()) {
                return false;
            }
            $this->vars = $kept['vars'];

            return true;
        }

        public function getVars()
        {
            return $this->vars;
        }

        public function startDataCache($ttl = false, $uniqueString = false, $initDir = false, $vars = [], $baseDir = 'cache')
        {
            if ($this->initCache($ttl, $uniqueString, $initDir)) {
                return false;
            }
            $this->open = self::path($uniqueString, $initDir);

            return true;
        }

        public function endDataCache($vars = false)
        {
            if ($this->open === null) {
                throw new \LogicException('endDataCache() without startDataCache()');
            }
            \BitrixDouble::write($this->open, ['made' => (self::$now)(), 'vars' => $vars]);
            $this->open = null;
        }

        public function clean($uniqueString, $initDir = false, $baseDir = 'cache')
        {
            \BitrixDouble::remove(self::path($uniqueString, $initDir));
        }

        private static function path($uniqueString, $initDir)
        {
            return 'cache' . $initDir . '/' . md5($uniqueString) . '.json';
        }
    }
}

namespace {
    class BitrixDouble
    {
        public static function read($name)
        {
            $path = self::path($name);

            return is_file($path) ? json_decode(file_get_contents($path), true) : [];
        }

        /** One more line of a list. */
        public static function add($name, $what)
        {
            self::write($name, array_merge(self::read($name), [$what]));
        }

        public static function write($name, array $what)
        {
            $path = self::path($name);
            is_dir(dirname($path)) || mkdir(dirname($path), 0700, true);
            $draft = $path . '.' . getmypid() . '.new';
            file_put_contents($draft, json_encode($what, JSON_PRETTY_PRINT));
            rename($draft, $path);
        }

        public static function remove($name)
        {
            if (is_file(self::path($name))) {
                unlink(self::path($name));
            }
        }

        private static function path($name)
        {
            return $_SERVER['DOCUMENT_ROOT'] . '/bitrix/' . $name;
        }
    }
    require_once __DIR__ . '/../lib.php';
    require_once __DIR__ . '/../../sale/lib.php';
    $GLOBALS['USER'] = new CUser();
    $GLOBALS['APPLICATION'] = new CMain();
}
