<?php

$MESS['SALE_HPS_CVETYKASPI_GROUP_SELLER'] = 'Kaspi: чьи это деньги';
$MESS['SALE_HPS_CVETYKASPI_GROUP_PAYING'] = 'Kaspi: как платит покупатель';
$MESS['SALE_HPS_CVETYKASPI_DESCRIPTION'] = 'Оплата через Kaspi на счёт того продавца, чей это заказ. Адрес сервиса, ключ и папка задаются командой console.php, см. docs/bitrix.md.';
$MESS['SALE_HPS_CVETYKASPI_SELLER'] = 'Правило: чей это платёж';
$MESS['SALE_HPS_CVETYKASPI_SELLER_DESC'] = 'Без правила оплаты нет. Магазина по умолчанию нет.';
$MESS['SALE_HPS_CVETYKASPI_SELLER_SHOP'] = 'Всегда один магазин';
$MESS['SALE_HPS_CVETYKASPI_SELLER_PROPERTY'] = 'Магазин в свойстве заказа';
$MESS['SALE_HPS_CVETYKASPI_SELLER_XML_ID'] = 'Магазин в XML_ID оплаты (shop-121038)';
$MESS['SALE_HPS_CVETYKASPI_SHOP'] = 'Номер магазина';
$MESS['SALE_HPS_CVETYKASPI_SHOP_DESC'] = 'Для правила «всегда один магазин»: 121038. Если таких платёжных систем несколько, то ID этой системы, двоеточие и магазин: 3:121038.';
$MESS['SALE_HPS_CVETYKASPI_PROPERTY'] = 'Код свойства заказа';
$MESS['SALE_HPS_CVETYKASPI_PROPERTY_DESC'] = 'Для правила «магазин в свойстве заказа»: в нём номер магазина.';
$MESS['SALE_HPS_CVETYKASPI_GOODS'] = 'Код свойства товара в корзине с номером магазина';
$MESS['SALE_HPS_CVETYKASPI_GOODS_DESC'] = 'По нему проверяется, что в заказе товары одного продавца. Дефис (-) значит: у товаров продавца нет, и заказов с товарами двух продавцов не бывает.';
$MESS['SALE_HPS_CVETYKASPI_WAY'] = 'Как платит покупатель';
$MESS['SALE_HPS_CVETYKASPI_WAY_DESC'] = 'Счёт приходит на телефон в приложение Kaspi, ссылка открывается на телефоне или читается как QR-код.';
$MESS['SALE_HPS_CVETYKASPI_WAY_BOTH'] = 'Счёт на телефон или ссылка';
$MESS['SALE_HPS_CVETYKASPI_WAY_PHONE'] = 'Счёт на телефон';
$MESS['SALE_HPS_CVETYKASPI_WAY_LINK'] = 'Ссылка и QR-код';
$MESS['SALE_HPS_CVETYKASPI_MESSAGE'] = 'Текст, который покупатель видит в Kaspi';
$MESS['SALE_HPS_CVETYKASPI_MESSAGE_DESC'] = '#ORDER_NUMBER#, #ORDER_ID# и #PAYMENT_NUMBER# заменяются номерами.';
$MESS['SALE_HPS_CVETYKASPI_MESSAGE_DEFAULT'] = 'Заказ #ORDER_NUMBER#';
$MESS['SALE_HPS_CVETYKASPI_PHONE'] = 'Телефон покупателя';
$MESS['SALE_HPS_CVETYKASPI_PHONE_DESC'] = 'Им заполняется поле на странице оплаты; покупатель может его изменить.';
