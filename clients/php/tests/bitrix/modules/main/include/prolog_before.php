<?php
/**
 * Doubles of the few Bitrix classes that the client uses. They behave as Bitrix's do where the client depends on it, and
 * throw where it would be wrong to call them. State lies in JSON files below DOCUMENT_ROOT/bitrix.
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

namespace Bitrix\Main {
    class Loader
    {
        public static $included = [];

        public static function includeModule($moduleName)
        {
            self::$included[$moduleName] = true;

            return true;
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

namespace Bitrix\Sale {
    class Result
    {
        private $errors;

        public function __construct(array $errors = [])
        {
            $this->errors = $errors;
        }

        public function isSuccess()
        {
            return $this->errors === [];
        }

        public function getErrorMessages()
        {
            return $this->errors;
        }
    }

    class Payment
    {
        public $fields;

        public function __construct(array $fields)
        {
            $this->fields = $fields + ['SUM' => 0.0, 'PAID' => 'N', 'INNER' => 'N', 'PAY_VOUCHER_NUM' => null, 'PAY_RETURN_NUM' => null,
                'PAY_RETURN_COMMENT' => null];
        }

        public function isPaid()
        {
            return $this->fields['PAID'] === 'Y';
        }

        public function isInner()
        {
            return $this->fields['INNER'] === 'Y';
        }

        public function getSum()
        {
            return $this->fields['SUM'];
        }

        public function getField($name)
        {
            return $this->fields[$name];
        }

        public function setField($name, $value)
        {
            if ($name === 'IS_RETURN' || !array_key_exists($name, $this->fields)) {
                throw new \LogicException("setField($name) would move money, or there is no such field");
            }
            $this->fields[$name] = $value;

            return new Result();
        }

        public function setPaid($value)
        {
            return $this->setField('PAID', $value);
        }

        public function setReturn($value)
        {
            throw new \LogicException('setReturn() pays back once more');
        }
    }

    class Order
    {
        public static $fails = [];
        private $id;
        private $payments;

        public static function load($id)
        {
            if (!isset(\Bitrix\Main\Loader::$included['sale'])) {
                throw new \LogicException('the module sale is not included');
            }
            $orders = \BitrixDouble::read('orders.json');
            if (!isset($orders[$id])) {
                return null;
            }
            $order = new self();
            $order->id = $id;
            foreach ($orders[$id] as $fields) {
                $order->payments[] = new Payment($fields);
            }

            return $order;
        }

        public function getPaymentCollection()
        {
            return new \ArrayIterator($this->payments);
        }

        public function save()
        {
            if (self::$fails !== []) {
                return new Result(self::$fails);
            }
            $orders = \BitrixDouble::read('orders.json');
            $orders[$this->id] = array_map(static function (Payment $payment) {
                return $payment->fields;
            }, $this->payments);
            \BitrixDouble::write('orders.json', $orders);

            return new Result();
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

        public static function write($name, array $what)
        {
            $path = self::path($name);
            is_dir(dirname($path)) || mkdir(dirname($path), 0700, true);
            file_put_contents($path, json_encode($what, JSON_PRETTY_PRINT), LOCK_EX);
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
}
