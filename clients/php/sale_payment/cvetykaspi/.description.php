<?php

use Bitrix\Main\Localization\Loc;

Loc::loadMessages(__FILE__);

$cvetyKaspiSeller = Loc::getMessage('SALE_HPS_CVETYKASPI_GROUP_SELLER');
$cvetyKaspiPaying = Loc::getMessage('SALE_HPS_CVETYKASPI_GROUP_PAYING');

$description = ['MAIN' => Loc::getMessage('SALE_HPS_CVETYKASPI_DESCRIPTION')];

$data = [
    'NAME' => 'Kaspi Pay',
    'SORT' => 100,
    'CODES' => [
        // No default: without a rule nobody is paid.
        'CVETYKASPI_SELLER' => [
            'NAME' => Loc::getMessage('SALE_HPS_CVETYKASPI_SELLER'),
            'DESCRIPTION' => Loc::getMessage('SALE_HPS_CVETYKASPI_SELLER_DESC'),
            'SORT' => 100,
            'GROUP' => $cvetyKaspiSeller,
            'INPUT' => [
                'TYPE' => 'ENUM',
                'OPTIONS' => [
                    'SHOP' => Loc::getMessage('SALE_HPS_CVETYKASPI_SELLER_SHOP'),
                    'PROPERTY' => Loc::getMessage('SALE_HPS_CVETYKASPI_SELLER_PROPERTY'),
                    'XML_ID' => Loc::getMessage('SALE_HPS_CVETYKASPI_SELLER_XML_ID'),
                ],
            ],
        ],
        'CVETYKASPI_SHOP' => [
            'NAME' => Loc::getMessage('SALE_HPS_CVETYKASPI_SHOP'),
            'DESCRIPTION' => Loc::getMessage('SALE_HPS_CVETYKASPI_SHOP_DESC'),
            'SORT' => 110,
            'GROUP' => $cvetyKaspiSeller,
        ],
        'CVETYKASPI_PROPERTY' => [
            'NAME' => Loc::getMessage('SALE_HPS_CVETYKASPI_PROPERTY'),
            'DESCRIPTION' => Loc::getMessage('SALE_HPS_CVETYKASPI_PROPERTY_DESC'),
            'SORT' => 120,
            'GROUP' => $cvetyKaspiSeller,
            'DEFAULT' => ['PROVIDER_KEY' => 'VALUE', 'PROVIDER_VALUE' => 'SHOP_ID'],
        ],
        'CVETYKASPI_GOODS' => [
            'NAME' => Loc::getMessage('SALE_HPS_CVETYKASPI_GOODS'),
            'DESCRIPTION' => Loc::getMessage('SALE_HPS_CVETYKASPI_GOODS_DESC'),
            'SORT' => 130,
            'GROUP' => $cvetyKaspiSeller,
        ],
        'CVETYKASPI_WAY' => [
            'NAME' => Loc::getMessage('SALE_HPS_CVETYKASPI_WAY'),
            'DESCRIPTION' => Loc::getMessage('SALE_HPS_CVETYKASPI_WAY_DESC'),
            'SORT' => 200,
            'GROUP' => $cvetyKaspiPaying,
            'INPUT' => [
                'TYPE' => 'ENUM',
                'OPTIONS' => [
                    'BOTH' => Loc::getMessage('SALE_HPS_CVETYKASPI_WAY_BOTH'),
                    'PHONE' => Loc::getMessage('SALE_HPS_CVETYKASPI_WAY_PHONE'),
                    'LINK' => Loc::getMessage('SALE_HPS_CVETYKASPI_WAY_LINK'),
                ],
            ],
            'DEFAULT' => ['PROVIDER_KEY' => 'INPUT', 'PROVIDER_VALUE' => 'BOTH'],
        ],
        'CVETYKASPI_MESSAGE' => [
            'NAME' => Loc::getMessage('SALE_HPS_CVETYKASPI_MESSAGE'),
            'DESCRIPTION' => Loc::getMessage('SALE_HPS_CVETYKASPI_MESSAGE_DESC'),
            'SORT' => 210,
            'GROUP' => $cvetyKaspiPaying,
            'DEFAULT' => ['PROVIDER_KEY' => 'VALUE', 'PROVIDER_VALUE' => Loc::getMessage('SALE_HPS_CVETYKASPI_MESSAGE_DEFAULT')],
        ],
        'BUYER_PERSON_PHONE' => [
            'NAME' => Loc::getMessage('SALE_HPS_CVETYKASPI_PHONE'),
            'DESCRIPTION' => Loc::getMessage('SALE_HPS_CVETYKASPI_PHONE_DESC'),
            'SORT' => 220,
            'GROUP' => $cvetyKaspiPaying,
            'DEFAULT' => ['PROVIDER_KEY' => 'PROPERTY', 'PROVIDER_VALUE' => 'PHONE'],
        ],
    ],
];
